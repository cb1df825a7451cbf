"""JSON over HTTP through the real Envoy, in front of a server with the real vLLM; curl is the client."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from PIL import Image, ImageDraw

from octet.client import AsyncClient
from octet.config import ServerConfig
from octet.engine.vllm.serving.engine import VllmEngine
from octet.server.server import Server
from octet.v1 import model_service_pb2, model_service_pb2_grpc
from tests.e2e.envoy import envoy

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proxy(engine: VllmEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Envoy's address."""
    server = Server(ServerConfig(port=0, api_key="secret"))
    await server.start()
    await server.attach(engine)
    running = envoy("http_json.yaml", [server.port], tmp_path_factory.mktemp("envoy"))
    # Starting it waits for an answer of the server, which runs on this very event loop.
    address = await asyncio.to_thread(running.__enter__)
    try:
        yield address
    finally:
        running.__exit__(None, None, None)
        await server.stop()


async def curl(url: str, body: Any = None, key: str = "secret", *headers: str) -> tuple[int, str]:
    """The status and the body that curl gets."""
    command = ["curl", "--silent", "--no-buffer", "--write-out", "\n%{http_code}", url]
    for header in headers:
        command += ["--header", header]
    command += ["--header", f"authorization: Bearer {key}", "--header", "content-type: application/json"]
    if body is not None:
        command += ["--data-binary", "@-"]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(json.dumps(body).encode())
    text, _, status = output.decode().rpartition("\n")
    return int(status), text


def asked(text: str, *parts: dict[str, Any], **sampling: Any) -> dict[str, Any]:
    message = {"role": "ROLE_USER", "parts": [{"text": text}, *parts]}
    return {"messages": [message], "sampling": {"temperature": 0, **sampling}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def counted(proxy: str) -> str:
    """The same question's answer over gRPC."""
    async with AsyncClient(proxy, api_key="secret") as client:
        return (await client.chat("Count to five.", temperature=0)).text


async def test_a_whole_answer(proxy: str, counted: str) -> None:
    status, body = await curl(f"http://{proxy}/v1/chat", asked("Count to five."))
    answer = json.loads(body)
    assert status == 200
    assert answer["candidates"][0]["finish_reason"] == "FINISH_REASON_STOP"
    assert answer["candidates"][0]["message"]["parts"] == [{"text": counted}]
    assert answer["usage"]["completion_tokens"] > 1


async def test_a_deadline_ends_an_answer_with_its_status_as_json(proxy: str) -> None:
    endless = asked("Go on.", ignore_eos=True, max_tokens=1900)
    status, body = await curl(f"http://{proxy}/v1/chat", endless, "secret", "grpc-timeout: 300m")
    assert status == 504
    assert json.loads(body)["code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_a_streamed_answer_is_one_object_a_line(proxy: str, counted: str) -> None:
    status, body = await curl(f"http://{proxy}/v1/chat:stream", asked("Count to five."))
    chunks = [json.loads(line) for line in body.splitlines() if line]
    deltas = [delta for chunk in chunks for delta in chunk.get("deltas", [])]
    assert status == 200
    assert len(chunks) > 2
    assert chunks[0]["usage"]["prompt_tokens"] > 0
    assert "".join(delta.get("text", "") for delta in deltas) == counted
    assert deltas[-1]["finish_reason"] == "FINISH_REASON_STOP"


async def test_completions(proxy: str, counted: str) -> None:
    prompt = "<start_of_turn>user\nCount to five.<end_of_turn>\n<start_of_turn>model\n"
    body = {"prompts": [{"parts": [{"text": prompt}]}] * 2, "sampling": {"temperature": 0}}
    status, answered = await curl(f"http://{proxy}/v1/completions", body)
    assert status == 200
    texts = [result["completions"][0]["text"] for result in json.loads(answered)["results"]]
    assert texts == [counted, counted]
    status, streamed = await curl(f"http://{proxy}/v1/completions:stream", body)
    chunks = [json.loads(line) for line in streamed.splitlines() if line]
    deltas = [delta for chunk in chunks for delta in chunk.get("deltas", [])]
    assert status == 200
    assert "".join(delta.get("text", "") for delta in deltas if delta.get("prompt_index") == 1) == counted
    status, answered = await curl(f"http://{proxy}/v1/embeddings", {"inputs": []})
    assert status == 501


async def test_a_picture_in_base64(proxy: str) -> None:
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((50, 50, 150, 150), fill=(220, 20, 20))
    file = io.BytesIO()
    image.save(file, "PNG")
    picture = {"image": {"data": base64.b64encode(file.getvalue()).decode()}}
    status, body = await curl(f"http://{proxy}/v1/chat", asked("What is in this picture?", picture))
    assert status == 200
    assert json.loads(body)["candidates"][0]["message"]["parts"] == [{"text": "a red circle"}]


async def test_errors_keep_their_details(proxy: str) -> None:
    status, body = await curl(f"http://{proxy}/v1/chat", asked("Hello!", temperature=-1))
    error = json.loads(body)
    violations = [
        violation
        for detail in error["details"]
        if detail["@type"].endswith("google.rpc.BadRequest")
        for violation in detail["field_violations"]
    ]
    assert (status, error["code"]) == (400, 3)
    assert [violation["field"] for violation in violations] == ["sampling.temperature"]


@pytest.mark.parametrize(
    ("path", "body", "key", "expected"),
    [
        ("/v1/chat", {"messages": []}, "wrong", 401),
        ("/v1/chat", {"messages": 7}, "secret", 400),
        ("/v1/models/no/such/model", None, "secret", 404),
        ("/v1/nothing", None, "secret", 404),
    ],
)
async def test_statuses(proxy: str, path: str, body: Any, key: str, expected: int) -> None:
    status, _ = await curl(f"http://{proxy}{path}", body, key)
    assert status == expected


async def test_models(proxy: str, engine: VllmEngine) -> None:
    name = engine.model.names[0]
    status, body = await curl(f"http://{proxy}/v1/models")
    assert (status, json.loads(body)["models"][0]["name"]) == (200, name)
    status, body = await curl(f"http://{proxy}/v1/models/{name}")
    assert (status, json.loads(body)["model"]["name"]) == (200, name)


async def test_grpc_passes_through(proxy: str, engine: VllmEngine) -> None:
    async with grpc.aio.insecure_channel(proxy) as channel:
        answer = await model_service_pb2_grpc.ModelServiceStub(channel).ListModels(
            model_service_pb2.ListModelsRequest(), metadata=[("authorization", "Bearer secret")]
        )
    assert answer.models[0].name == engine.model.names[0]
