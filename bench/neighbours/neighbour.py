"""The other caller, who streams all the time and begins a new stream now and then, and how it fares."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any

import grpc

from bench.neighbours.calls import chat
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc

KEY = "neighbour"
METADATA = (("authorization", f"Bearer {KEY}"),)
_NEW_STREAM_SECONDS = 0.5
_SOME_TOKENS = 300


@dataclass(frozen=True, slots=True)
class Fare:
    """How the neighbour fared for a while, in milliseconds.

    Attributes:
        p50: between chunks of its stream, the median.
        p99: likewise, the 99th percentile.
        largest: likewise.
        first_token: of a new stream, the longest wait.
    """

    p50: float
    p99: float
    largest: float
    first_token: float


class Neighbour:
    """Streams, one stream after the other, while the context lasts; `METADATA` says who it is."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._stub: Any = chat_service_pb2_grpc.ChatServiceStub(self._channel)
        # When each wait began and ended: for the next chunk of a stream, and for the first one.
        self._gaps: list[tuple[float, float]] = []
        self._first_tokens: list[tuple[float, float]] = []
        self._flowing = asyncio.Event()
        self.refused: list[str] = []

    async def __aenter__(self) -> "Neighbour":
        self._tasks = [
            asyncio.create_task(self._keep_streaming()),
            asyncio.create_task(self._begin_streams()),
        ]
        await self._flowing.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    def fare(self, begin: float, end: float) -> Fare:
        """How it fared between two moments."""
        gaps = sorted(_waited(self._gaps, begin, end)) or [1e3 * (end - begin)]
        return Fare(
            statistics.median(gaps),
            gaps[int(0.99 * len(gaps))],
            gaps[-1],
            max(_waited(self._first_tokens, begin, end), default=1e3 * (end - begin)),
        )

    async def _keep_streaming(self) -> None:
        while True:
            request = chat(tokens=_SOME_TOKENS)
            request.sampling.ignore_eos = True
            # What comes after the end is text then, too.
            request.sampling.skip_special_tokens = False
            await self._stream(request)

    async def _begin_streams(self) -> None:
        while True:
            await self._stream(chat(tokens=1))
            await asyncio.sleep(_NEW_STREAM_SECONDS)

    async def _stream(self, request: chat_service_pb2.ChatRequest) -> None:
        since, waits = time.monotonic(), self._first_tokens
        try:
            async for chunk in self._stub.StreamChat(request, metadata=METADATA):
                if chunk.deltas:
                    now = time.monotonic()
                    waits.append((since, now))
                    since, waits = now, self._gaps
                    self._flowing.set()
        except grpc.aio.AioRpcError as error:
            waits.append((since, time.monotonic()))
            self.refused.append(f"{error.code().name}: {error.details()}")
            await asyncio.sleep(_NEW_STREAM_SECONDS)


def _waited(waits: list[tuple[float, float]], begin: float, end: float) -> list[float]:
    """Milliseconds of the waits that ended, or would have to have ended, in that time."""
    return [1e3 * (ended - began) for began, ended in waits if began <= end and ended >= begin]
