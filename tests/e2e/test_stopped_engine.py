"""An engine that stands still and goes on later: a machine that was paused, a debugger."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import psutil  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octet.client import AsyncClient, OctetRpcError
from octet.engine.vllm.serving.engine import VllmEngine

TOKENS = 200


@contextmanager
def stopped() -> Iterator[None]:
    """The engine's processes stand still."""
    processes = [p for p in psutil.Process().children(recursive=True) if "VLLM" in " ".join(p.cmdline())]
    assert len(processes) >= 2
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@pytest.mark.asyncio(loop_scope="session")
async def test_calls_wait_deadlines_hold_and_answers_go_on(engine: VllmEngine, in_process: str) -> None:
    async with (
        AsyncClient(in_process, timeout=60.0) as client,
        grpc.aio.insecure_channel(in_process) as channel,
    ):
        stream = client.stream("Tell me a story.", ignore_eos=True, max_tokens=TOKENS)
        given_up = client.stream("Tell me another story.", ignore_eos=True, max_tokens=TOKENS)
        for started in (stream, given_up):
            assert await anext(aiter(started))
        with stopped():
            with pytest.raises(OctetRpcError) as raised:
                await client.chat("Hello!", timeout=2.0)
            assert raised.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert await client.cancel(given_up.request_id) == [given_up.request_id]
            assert (await given_up.answer()).finish_reason == "CANCELLED"
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            await engine.check_health()
            assert await client.list_models()
            late = asyncio.ensure_future(client.chat("Hello!", max_tokens=4, ignore_eos=True))
        assert (await stream.answer()).usage.completion_tokens == TOKENS
        assert (await late).usage.completion_tokens == 4
        async with asyncio.timeout(5):
            while await engine.num_unfinished() > 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
