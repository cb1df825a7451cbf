"""An engine whose processes die: whoever waits for it is told, and nothing is left behind."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import psutil  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octet.client import Client, OctetRpcError
from octet.engine.types import Event, GenerationRequest, Message, PromptAccepted, Role, Sampling, TextPart
from octet.engine.vllm.launch.args import parse_engine_args
from octet.engine.vllm.serving.engine import VllmEngine, create_engine
from octet.errors import EngineDeadError
from tests.e2e.conftest import ENGINE_FLAGS, wait_until_serving
from tests.e2e.envoy import envoy
from tests.e2e.json_client import asking, chat, is_whole, objects
from tests.idle import idle_seconds


@pytest.mark.parametrize("victim", ["EngineCore", "Worker"])
def test_the_service_ends_with_its_engine(victim: str, tmp_path: Path) -> None:
    """Health flips within 2 s, the caller is told, and the process ends within 5 s, with one line.

    Over HTTP the answer ends like a whole one, but for the sign of that.
    """
    log = tmp_path / "server.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "octet", "serve", "--port", "0"]
        server = subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL)
    try:
        target = wait_until_serving(server, log)
        (tmp_path / "envoy").mkdir()
        story = chat("Tell me a story.", ignore_eos=True, max_tokens=4000)
        with (
            envoy("http_json.yaml", [int(target.rpartition(":")[2])], tmp_path / "envoy") as proxy,
            asking(f"http://{proxy}/v1/chat:stream", body=story) as web,
            grpc.insecure_channel(target) as channel,
            Client(target) as client,
        ):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            stream = client.stream("Tell me a story.", ignore_eos=True, max_tokens=4000)
            assert next(iter(stream))
            assert web.stdout is not None
            begun = [web.stdout.readline(), web.stdout.readline()]
            processes = psutil.Process(server.pid).children(recursive=True)
            (process,) = [p for p in processes if f"VLLM::{victim}" in " ".join(p.cmdline())]
            killed = idle_seconds()
            process.kill()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert idle_seconds() - killed < 2
            with pytest.raises(OctetRpcError) as raised:
                stream.answer()
            assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DEAD")
            chunks = objects("".join([*begun, web.stdout.read()]))
            assert chunks[0]["usage"]["prompt_tokens"] > 0
            assert not is_whole(chunks)
        assert server.wait(timeout=60) == 1
        assert idle_seconds() - killed < 5
        assert log.read_text().splitlines()[-1] == "octet: error: the engine has died"
        assert psutil.wait_procs(processes, timeout=20)[1] == []
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("forked", [0, 2])
def test_nothing_outlives_a_killed_server(forked: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As soon as there is a fork server, still importing, or the core and the worker that it has forked.

    No process does for 5 s, and no file.
    """
    # Of a short path, for sockets lie in it.
    temporary = tmp_path_factory.mktemp("o")
    log = temporary / "server.log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "octet", "serve", "--port", "0"]
        environment = os.environ | {"TMPDIR": str(temporary)}
        server = subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL, env=environment)
    try:
        front = psutil.Process(server.pid)
        give_up = time.monotonic() + 280
        while not any(
            "forkserver" in " ".join(child.cmdline()) and len(child.children()) >= forked
            for child in front.children()
        ):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
        processes = front.children(recursive=True)
        marks = [path.name for path in temporary.glob("octet-engine-*")]
        assert marks
    finally:
        server.kill()
        server.wait()
    assert psutil.wait_procs(processes, timeout=5)[1] == []
    assert list(temporary.glob("octet-engine-*")) == []
    assert [name for name in os.listdir("/dev/shm") if any(mark in name for mark in marks)] == []


def request(name: str) -> GenerationRequest:
    turn = Message(Role.USER, (TextPart("Go on."),))
    return GenerationRequest(name, (turn,), sampling=Sampling(ignore_eos=True))


async def exhaust(stream: AsyncGenerator[Event, None]) -> None:
    async for _ in stream:
        pass


async def dies(engine: VllmEngine) -> None:
    """Waits until the engine says that it is dead."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            await engine.check_health()
        except EngineDeadError:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the engine does not notice that its process is gone")


async def test_a_killed_core_is_noticed(model_path: str) -> None:
    before = set(psutil.Process().children(recursive=True))
    engine = await create_engine(parse_engine_args([model_path, *ENGINE_FLAGS]))
    try:
        started = set(psutil.Process().children(recursive=True)) - before
        stream = engine.generate(request("running"))
        assert isinstance(await anext(stream), PromptAccepted)
        await anext(stream)
        (core,) = [process for process in started if "EngineCore" in " ".join(process.cmdline())]
        core.kill()
        with pytest.raises(EngineDeadError):
            await asyncio.wait_for(exhaust(stream), 10)
        await dies(engine)
        with pytest.raises(EngineDeadError):
            await anext(engine.generate(request("late")))
        with pytest.raises(EngineDeadError):
            await engine.num_unfinished()
    finally:
        engine.close()
        engine.close()
    with pytest.raises(EngineDeadError):
        await engine.check_health()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert [process for process in alive if "VLLM" in " ".join(process.cmdline())] == []
