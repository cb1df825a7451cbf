"""`octet bench serve` against servers of the three kinds, whose engines are scripted."""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result
from smg_grpc_proto import vllm_engine_pb2, vllm_engine_pb2_grpc

from octet.cli import octet
from octet.config import ServerConfig
from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Event,
    FinishReason,
    GenerationRequest,
    ImagePart,
    PromptAccepted,
    TextDelta,
    TextPart,
    Usage,
)
from octet.errors import UnavailableError
from tests.certificates import Certificates
from tests.integration.conftest import Start
from tests.integration.fake_engine import Endless, call_tool

SMALL = ("--prompt-tokens", "12", "--answer-tokens", "4", "--warm-up", "1", "--picture-side", "32")


async def bench(*arguments: str) -> Result:
    """Runs the command beside the servers of this test."""
    command = ["bench", "serve", *SMALL, *arguments]
    return await asyncio.to_thread(CliRunner(catch_exceptions=False).invoke, octet, command)


async def written(file: Path, *arguments: str) -> list[dict[str, Any]]:
    """Runs it, and gives the levels that it writes."""
    result = await bench(*arguments, "--json", str(file))
    assert result.exit_code == 0, result.output
    return levels_in(file)


def levels_in(file: Path) -> list[dict[str, Any]]:
    levels: list[dict[str, Any]] = json.loads(file.read_text())["levels"]
    return levels


async def words(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """As many words as tokens are wanted; a word of the prompt is a token, and three come on top."""
    if request.tools:
        async for event in call_tool(request):
            yield event
        return
    said = " ".join(part.text for part in request.messages[-1].parts if isinstance(part, TextPart))
    prompt = len(said.split()) + 3
    wanted = request.sampling.max_tokens or 1
    yield PromptAccepted(prompt, 0)
    for count in range(1, wanted + 1):
        yield Deltas((TextDelta(0, "word "),), Usage(prompt, count, 0, 0))
        await asyncio.sleep(0)
    yield Deltas((CandidateFinished(0, FinishReason.LENGTH),), Usage(prompt, wanted, 0, 0))


async def test_an_octet_server(start: Start, tmp_path: Path) -> None:
    running = await start(words)
    plot = tmp_path / "out.png"
    [few, many, arriving] = await written(
        tmp_path / "out.json",
        *("--target", running.target, "--streams", "1,3", "--requests", "7", "--rate", "300"),
        *("--seconds", "0.05", "--turns", "2", "--goodput", "total=60s", "--plot", str(plot)),
        *("--mix", "text=2,picture=1,tools=1", "--pictures", "2", "--connections", "2"),
    )
    assert (few["streams"], many["streams"], arriving["rate"]) == (1, 3, 300)
    for level in (few, many):
        for turn in level["turns"]:
            assert turn["statuses"] == {"OK": 7}
            assert turn["first_text_s"]["count"] == 7
            assert turn["goodput_share"] == 1
            # Tool calls are four tokens, too.
            assert turn["answer_tokens"] == 7 * 4
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    asked = running.engine.asked
    # Two to learn how many tokens words are, and one to warm up.
    assert len(asked) == 3 + 2 * (7 + 7) + sum(sum(turn["statuses"].values()) for turn in arriving["turns"])
    pictures = Counter(
        sum(isinstance(part, ImagePart) for part in request.messages[-1].parts) for request in asked
    )
    assert pictures.keys() == {0, 2}
    assert {len(request.tools) for request in asked} == {0, 1}
    for request in asked[2:]:
        assert request.sampling.temperature == 0
        assert request.sampling.ignore_eos is (not request.tools)


async def test_failures_are_shown_and_decide_on_the_exit_status(start: Start) -> None:
    asked = 0

    async def some_fail(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        nonlocal asked
        asked += 1
        if asked > 4 and asked % 4 == 0:
            raise UnavailableError("the moon is full")
        async for event in words(request):
            yield event

    running = await start(some_fail)
    asked = 0
    result = await bench("--target", running.target, "--streams", "2", "--requests", "9")
    # Asked as 4 to 12: the 8th and the 12th fail.
    assert "2 streams, turn 1: 2 of 9 failed with UNAVAILABLE: the moon is full" in result.stdout
    assert result.stderr == "octet: error: 22.2% of a load's requests failed\n"
    assert result.exit_code == 1
    asked = 0
    allowed = await bench(
        *("--target", running.target, "--streams", "2", "--requests", "9", "--allow-failures", "0.3")
    )
    assert (allowed.exit_code, allowed.stderr) == (0, "")
    assert "2 of 9 failed" in allowed.stdout


async def test_refusals_are_not_repeated(start: Start, tmp_path: Path) -> None:
    """The client library would come again after a refusal; here each one counts."""
    release = asyncio.Event()
    holding = False

    async def hold(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        async for event in words(request):
            if holding and (request.sampling.max_tokens or 0) > 1:
                await release.wait()
            yield event

    running = await start(hold, config=ServerConfig(port=0, max_running_requests=1, max_waiting_requests=1))

    class Listener:
        refused_ones = 0

        def admitted(self, caller: str, queue_seconds: float) -> None: ...

        def refused(self, caller: str, reason: str) -> None:
            self.refused_ones += 1
            if self.refused_ones == 6:
                release.set()

    running.server.admission.subscribe(Listener())
    holding = True
    file = tmp_path / "out.json"
    result = await bench(
        *("--target", running.target, "--streams", "8", "--requests", "8", "--warm-up", "0"),
        *("--json", str(file)),
    )
    assert result.exit_code == 1
    [turn] = levels_in(file)[0]["turns"]
    assert turn["statuses"] == {"OK": 2, "RESOURCE_EXHAUSTED": 6}


async def test_an_interruption_ends_it(start: Start) -> None:
    script = Endless()
    running = await start(script)
    command = [sys.executable, "-m", "octet", "bench", "serve", "--target", running.target]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await script.started.wait()
    process.send_signal(signal.SIGINT)
    printed, errors = await process.communicate()
    assert (process.returncode, printed, errors) == (130, b"", b"octet: interrupted\n")
    await running.engine.idle.wait()


async def test_a_trace(start: Start, tmp_path: Path) -> None:
    running = await start(words)
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"arrival_s": 0.01, "prompt_tokens": 20, "answer_tokens": 5}\n'
        '{"arrival_s": 0, "prompt_tokens": 10, "answer_tokens": 2, "kind": "picture"}\n'
    )
    result = await asyncio.to_thread(
        CliRunner(catch_exceptions=False).invoke,
        octet,
        ["bench", "serve", "--target", running.target, "--trace", str(trace), "--picture-side", "32"],
    )
    assert result.exit_code == 0, result.output
    played = running.engine.asked[-2:]
    # A picture takes a while to be decoded.
    parts = {request.sampling.max_tokens: len(request.messages[-1].parts) for request in played}
    assert parts == {2: 2, 5: 1}


async def test_tls_and_a_key(start: Start, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("server", "localhost")
    config = ServerConfig(port=0, tls_certificate=certificate, tls_key=key, api_key="secret")
    running = await start(words, config=config)
    target = ("--target", running.target.replace("127.0.0.1", "localhost"), "--ca", certificates.ca)
    [level] = await written(
        tmp_path / "out.json", *target, "--api-key", "secret", "--streams", "1", "--requests", "1"
    )
    assert level["turns"][0]["statuses"] == {"OK": 1}
    refused = await bench(*target, "--api-key", "wrong", "--streams", "1")
    assert refused.exit_code == 1
    assert "does not answer: UNAUTHENTICATED" in refused.stderr


class OpenAi:
    """A server of OpenAI's API. A word of the prompt is a token, and three come on top.

    Attributes:
        asked: the bodies of all requests for an answer.
        keys: what came as their keys.
        wrong: what is wrong with the answers from the fourth request on.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.wrong = ""

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.keys.add(request.headers.get("Authorization"))
        wrong = self.wrong if len(self.asked) > 3 else ""
        if wrong == "busy":
            raise web.HTTPTooManyRequests(text="come again")
        said = body["messages"][0]["content"]
        if not isinstance(said, str):
            said = said[-1]["text"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await self._send(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for _ in range(body["max_tokens"]):
            delta = {"tool_calls": [{"index": 0}]} if "tools" in body else {"content": "word "}
            await self._send(response, {"choices": [{"delta": delta}]})
        if wrong == "error":
            await self._send(response, {"error": {"message": "out of luck"}})
        if wrong != "uncounted":
            usage = {"prompt_tokens": len(said.split()) + 3, "completion_tokens": body["max_tokens"]}
            await self._send(response, {"choices": [], "usage": usage})
        if wrong != "cut":
            await response.write(b"data: [DONE]\n\n")
        return response

    @staticmethod
    async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())


@asynccontextmanager
async def serving(server: OpenAi) -> AsyncIterator[str]:
    """The URL of a server."""
    application = web.Application()
    application.router.add_get("/v1/models", server.models)
    application.router.add_post("/v1/chat/completions", server.chat)
    async with TestServer(application) as started:
        yield str(started.make_url("/v1"))


async def test_a_server_of_openais_api(tmp_path: Path) -> None:
    server = OpenAi()
    async with serving(server) as url:
        [level] = await written(
            tmp_path / "out.json",
            *("--openai", url, "--streams", "3", "--requests", "9"),
            *("--mix", "text=1,picture=1,tools=1"),
        )
    [turn] = level["turns"]
    assert turn["statuses"] == {"OK": 9}
    assert turn["answer_tokens"] == 9 * 4
    assert turn["gap_s"]["count"] == 9 * 3
    assert turn["first_text_s"]["count"] == 9
    asked = server.asked[3:]
    assert len(asked) == 9
    assert all(body["model"] == "m" and body["stream"] and body["max_tokens"] == 4 for body in asked)
    kinds = Counter(
        "tools"
        if "tools" in body
        else "text"
        if isinstance(body["messages"][0]["content"], str)
        else "picture"
        for body in asked
    )
    assert kinds.keys() == {"text", "picture", "tools"}
    assert all(("ignore_eos" in body) is ("tools" not in body) for body in asked)


@pytest.mark.parametrize(
    ("arguments", "key"), [((), "Bearer openai"), (("--api-key", "given"), "Bearer given")]
)
async def test_octets_key_is_not_sent_to_others(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], key: str
) -> None:
    monkeypatch.setenv("OCTET_API_KEY", "octet")
    monkeypatch.setenv("OPENAI_API_KEY", "openai")
    server = OpenAi()
    async with serving(server) as url:
        result = await bench("--openai", url, "--streams", "1", "--requests", "1", *arguments)
    assert result.exit_code == 0, result.output
    assert server.keys == {key}


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("busy", "5 of 5 failed with HTTP 429: come again"),
        ("error", "5 of 5 failed with ERROR: {'message': 'out of luck'}"),
        ("cut", "5 of 5 failed with CUT_OFF: the stream ended before its [DONE]"),
        ("uncounted", "5 of 5 failed with NO_USAGE: the stream ended without its usage"),
    ],
)
async def test_what_openais_servers_do_wrong_is_a_failure(wrong: str, line: str) -> None:
    server = OpenAi()
    server.wrong = wrong
    async with serving(server) as url:
        result = await bench("--openai", url, "--model", "m", "--streams", "2", "--requests", "5")
    assert line in result.stdout
    assert result.exit_code == 1


class Vllm(vllm_engine_pb2_grpc.VllmEngineServicer):  # type: ignore[misc]
    """A server of VllmEngine, with a vocabulary of 800 tokens.

    Attributes:
        asked: all requests for an answer.
        reason: why answers end.
    """

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.reason = "length"

    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        return vllm_engine_pb2.GetModelInfoResponse(vocab_size=800)

    async def Generate(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        self.asked.append(request)
        for number in range(request.sampling_params.max_tokens):
            yield vllm_engine_pb2.GenerateResponse(chunk={"token_ids": [number]})
        if self.reason:
            complete = {
                "finish_reason": self.reason,
                "prompt_tokens": len(request.tokenized.input_ids),
                # As the real one counts where it streams: what came last.
                "completion_tokens": 1,
            }
            yield vllm_engine_pb2.GenerateResponse(complete=complete)


@asynccontextmanager
async def serving_vllm(servicer: Vllm) -> AsyncIterator[str]:
    """The address of a server."""
    server = grpc.aio.server()
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_server_of_vllm_engine(tmp_path: Path) -> None:
    servicer = Vllm()
    async with serving_vllm(servicer) as target:
        [level] = await written(
            tmp_path / "out.json", "--vllm-grpc", target, "--streams", "2", "--requests", "5"
        )
    [turn] = level["turns"]
    assert turn["statuses"] == {"OK": 5}
    assert (turn["prompt_tokens"], turn["answer_tokens"]) == (5 * 12, 5 * 4)
    assert turn["first_token_s"]["count"] == 5
    assert turn["first_text_s"] == {"count": 0}
    # One to see that it answers, and one to warm up.
    assert len(servicer.asked) == 2 + 5
    for request in servicer.asked[1:]:
        assert len(request.tokenized.input_ids) == 12
        assert all(100 <= token < 700 for token in request.tokenized.input_ids)
        assert request.sampling_params.ignore_eos


@pytest.mark.parametrize(
    ("reason", "failure"),
    [("", "CUT_OFF: the stream ended without"), ("abort", "CANCELLED: the answer ended")],
)
async def test_an_answer_of_vllm_engine_that_ends_wrongly(reason: str, failure: str) -> None:
    servicer = Vllm()
    servicer.reason = reason
    async with serving_vllm(servicer) as target:
        result = await bench("--vllm-grpc", target, "--streams", "1")
    assert result.exit_code == 1
    assert failure in result.stderr


@pytest.mark.parametrize("target", [("--target", "127.0.0.1:1"), ("--vllm-grpc", "127.0.0.1:1")])
async def test_no_server(target: tuple[str, str]) -> None:
    result = await bench(*target, "--streams", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "at 127.0.0.1:1 does not answer: UNAVAILABLE" in result.stderr


async def test_no_server_of_openais_api() -> None:
    result = await bench("--openai", "http://127.0.0.1:1/v1", "--streams", "1")
    assert result.exit_code == 1
    assert "does not answer: UNAVAILABLE" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--streams", "0"), "'0' is no list of numbers from 1 on"),
        (("--streams", "1,x"), "'1,x' is no list of numbers"),
        (("--rate", "0"), "'0' is no list of rates above 0"),
        (("--rate", "inf"), "'inf' is no list of rates"),
        (("--rate", "0.001", "--seconds", "0.1"), "nothing arrives in 0.1 s"),
        (("--rate", "5", "--requests", "5"), "--requests: --rate asks for no closed loop"),
        (("--seconds", "5"), "--seconds: a closed loop ends after its requests"),
        (("--mix", "video=1"), "--mix: 'video=1' is no share"),
        (("--prompt-tokens", "0"), "--prompt-tokens: '0': 0 is less than 1 token"),
        (("--answer-tokens", "uniform:2"), "--answer-tokens: 'uniform:2' is no length"),
        (("--goodput", "itl=1ms"), "--goodput: 'itl=1ms': give NAME=TIME"),
        (("--target", "a:1", "--openai", "http://a/v1"), "--target and --openai name different servers"),
        (("--openai", "a:1"), "--openai: a:1 is no URL"),
        (("--openai", "http://a/v1", "--tls"), "--tls: --openai encrypts where the URL says https:"),
        (("--openai", "http://a/v1", "--ca", __file__), "--ca: --openai does not encrypt with http:"),
        (("--openai", "http://a/v1", "--connections", "2"), "--connections: --openai has a connection"),
        (("--openai", "https://a/v1", "--ca", __file__), "TLS: "),
        (("--vllm-grpc", "a:1", "--mix", "picture=1"), "it can be asked for text alone"),
        (("--vllm-grpc", "a:1", "--model", "m"), "--model: VllmEngine serves one model"),
        (("--timeout", "0"), "--timeout: 0 is not more than 0"),
        (("--timeout", "nan"), "--timeout: nan is not more than 0"),
        (("--certificate", __file__), "a client certificate and its key go together"),
        (("--trace", __file__), "--trace: "),
        (("--trace", __file__, "--streams", "1"), "--streams: --trace says it"),
        (("--json", "/nowhere/out.json"), "/nowhere/out.json: there is no such folder"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], sentence: str) -> None:
    result = CliRunner(catch_exceptions=False).invoke(octet, ["bench", "serve", *arguments])
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
