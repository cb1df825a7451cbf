"""The real tritonclient, as its users call it, against a server in this process."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from octet.config import ServerConfig
from octet.kserve import grpc_service_pb2, model_config_pb2
from tests.descriptors import described
from tests.integration.conftest import Running, Start
from tests.integration.fake_engine import Endless
from tests.integration.processes import ROOT

KEY = "secret"


def kserve() -> ServerConfig:
    return ServerConfig(port=0, kserve=True, api_key=KEY)


@asynccontextmanager
async def program(call: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.triton_calls", call, *arguments),
        cwd=ROOT,
        stdin=pipe,
        stdout=pipe,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answer_of(call: str, *arguments: str, given: str = "") -> Any:
    async with program(call, *arguments) as process:
        output, _ = await asyncio.wait_for(process.communicate(given.encode()), 120)
        assert process.returncode == 0
        return json.loads(output)


async def test_blocking(start: Start) -> None:
    running = await start(config=kserve())
    came = await answer_of("blocking", running.target, KEY)
    names = came.pop("inputs")
    assert {"text_input", "image", "stream", "sampling_parameters", "exclude_input_in_output"} <= set(names)
    assert came == {
        "live": True,
        "ready": True,
        "model": True,
        "other": False,
        "server": "octet",
        "config": names,
        "decoupled": True,
        "result": {"id": "7", "text_output": ["one two "], "finish_reason": ["stop"]},
    }
    [asked] = running.engine.asked
    assert (round(asked.sampling.temperature or 0, 4), asked.sampling.max_tokens) == (0.1, 100)


async def test_errors(start: Start) -> None:
    running = await start(Endless(), config=kserve())
    wrong, unknown, late, given_up = await answer_of("refused", running.target, KEY)
    assert wrong == [
        "StatusCode.INVALID_ARGUMENT",
        "raw_input_contents[1]: sampling_parameters.temperature: 7 is not 0 to 2",
    ]
    assert unknown[0] == "StatusCode.NOT_FOUND"
    assert late == ["StatusCode.DEADLINE_EXCEEDED", "the deadline passed before the answer was complete"]
    assert given_up[0] == "StatusCode.DEADLINE_EXCEEDED"
    await asyncio.wait_for(running.engine.idle.wait(), 10)


async def test_streaming(start: Start) -> None:
    running = await start(config=kserve())
    came = await answer_of("streaming", running.target, KEY)
    assert came["results"] == [
        {"id": "a", "text_output": ["one "], "final": False},
        {"id": "a", "text_output": ["two "], "final": False},
        {"id": "a", "text_output": [""], "final": True},
    ]
    [error] = came["errors"]
    assert error.startswith("INVALID_ARGUMENT: raw_input_contents[2]: exclude_input_in_output: is false")


async def test_asyncio(start: Start) -> None:
    running = await start(config=kserve())
    came = await answer_of("aio", running.target, KEY)
    assert came == {
        "both": [["oneone "], ["twotwo "]],
        "streamed": {"0": ["one ", "two ", ""], "1": ["one ", "two ", ""]},
    }


async def test_a_cancelled_stream_stops_the_engine(start: Start) -> None:
    running = await start(Endless(), config=kserve())
    text, status = await answer_of("cancel_stream", running.target, KEY)
    assert (text, status) == (["first "], "StatusCode.CANCELLED")
    await _asked_and_idle(running)


async def test_a_cancelled_iterator_stops_the_engine(start: Start) -> None:
    running = await start(Endless(), config=kserve())
    assert await answer_of("cancel_aio", running.target, KEY) == ["first "]
    await _asked_and_idle(running)


async def test_a_cancelled_call_stops_the_engine(start: Start) -> None:
    running = await start(script := Endless(), config=kserve())
    async with program("cancel_call", running.target, KEY) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"called\n"
        await asyncio.wait_for(script.started.wait(), 30)
        output, _ = await asyncio.wait_for(process.communicate(b"\n"), 30)
        assert json.loads(output) == "StatusCode.CANCELLED"
    await _asked_and_idle(running)


async def test_the_protocol_is_the_clients() -> None:
    """Every name, number, type and label that we have is Triton's."""
    theirs = await answer_of("descriptors")
    ours = described([grpc_service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR])
    ours = json.loads(json.dumps(ours))
    assert len(ours) > 25
    for name, members in ours.items():
        assert members.items() <= theirs[name].items(), name


async def _asked_and_idle(running: Running) -> None:
    assert len(running.engine.asked) == 1
    await asyncio.wait_for(running.engine.idle.wait(), 10)
