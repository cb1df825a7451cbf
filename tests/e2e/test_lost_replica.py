"""A replica that is lost behind the real Envoy while calls run: none fails that can be made again."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from octet.v1 import chat_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from tests.e2e.envoy import envoy
from tests.integration.conftest import ask, code_of
from tests.integration.processes import Process, server_process

STREAMS = 8
LOOPS = 12


class Load:
    """Callers who ask again and again for what can be asked twice; how often each was answered."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        self._asks: list[Callable[[], Awaitable[object]]] = [
            lambda: models.ListModels(model_service_pb2.ListModelsRequest()),
            lambda: models.CountTokens(model_service_pb2.CountTokensRequest(request=ask())),
            lambda: models.Tokenize(model_service_pb2.TokenizeRequest(text="one two")),
        ]
        self.answered: Counter[int] = Counter()
        self.errors: list[str] = []
        self.ended = asyncio.Event()

    async def caller(self, number: int) -> None:
        """One of them, who asks again where an answer had begun: such Envoy ends with a reset."""
        asked = 0
        while not self.ended.is_set():
            try:
                asked += 1
                await self._asks[number % len(self._asks)]()
            except grpc.aio.AioRpcError as error:
                if asked == 1 and is_reset(error):
                    continue
                self.errors.append(f"{error.code()}: {error.details()}")
            asked = 0
            self.answered[number] += 1

    async def until(self, enough: Callable[[list[int]], bool]) -> None:
        """Waits until so many of each caller's calls, from now on, were answered."""
        before = self.answered.copy()
        async with asyncio.timeout(60):
            while not enough([self.answered[number] - before[number] for number in range(LOOPS)]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def is_reset(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call ended without a status, in the middle of its answer."""
    return error.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "")


def log_of(server: Process) -> "asyncio.Future[int]":
    """Reads a server's log to its end, so that it never waits for room in a pipe."""
    return asyncio.ensure_future(asyncio.to_thread(server.wait, 60))


@pytest.mark.asyncio
async def test_calls_are_answered_elsewhere(tmp_path: Path) -> None:
    """Those that had come to it included; only answers that had begun there end, without a status."""
    with ExitStack() as stack:
        lost, other = (stack.enter_context(server_process("endless")) for _ in range(2))
        ends = [log_of(server) for server in (lost, other)]
        ports = [int(server.target.rpartition(":")[2]) for server in (lost, other)]
        address = stack.enter_context(envoy("grpc.yaml", ports, tmp_path))
        options = [("grpc.enable_retries", 0)]
        try:
            async with (
                grpc.aio.insecure_channel(address, options=options) as channel,
                asyncio.TaskGroup() as group,
            ):
                chats = chat_service_pb2_grpc.ChatServiceStub(channel)
                streams = [chats.StreamChat(ask()) for _ in range(STREAMS)]
                for stream in streams:
                    await stream.read()
                load = Load(channel)
                for number in range(LOOPS):
                    group.create_task(load.caller(number))
                await load.until(lambda more: min(more) >= 5)
                # Some calls have come to it, and are not answered, when it is gone.
                lost.signal(signal.SIGSTOP)
                await load.until(lambda more: min(more) == 0 and sum(more) >= 6)
                lost.popen.kill()
                await load.until(lambda more: min(more) >= 10)
                load.ended.set()
                other.signal(signal.SIGUSR2)
                codes = Counter([await code_of(stream) for stream in streams])
            assert load.errors == [], Counter(load.errors)
            assert codes.keys() == {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL}
        finally:
            for server in (lost, other):
                server.popen.kill()
            await asyncio.wait(ends)
