"""An engine whose processes die: whoever waits for it is told, and nothing is left behind."""

import asyncio
import time
from collections.abc import AsyncGenerator

import psutil  # type: ignore[import-untyped]
import pytest

from octet.engine.types import Event, GenerationRequest, Message, PromptAccepted, Role, Sampling, TextPart
from octet.engine.vllm.args import parse_engine_args
from octet.engine.vllm.engine import VllmEngine, create_engine
from octet.errors import EngineDeadError
from tests.e2e.conftest import ENGINE_FLAGS


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
