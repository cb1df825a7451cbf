"""Answers that are being produced, as both clients give them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import grpc
from typing_extensions import Self

from octet.client.answer import Answer
from octet.client.completions import Completions
from octet.client.errors import to_octet_error
from octet.translate.chunks import ChunkAccumulator, CompletionAccumulator
from octet.v1 import chat_service_pb2, completion_service_pb2

Delta = TypeVar("Delta")
Whole = TypeVar("Whole")


class Received(Protocol):
    """What has come of an answer."""

    def add(self, chunk: Any) -> None:
        """Adds the next chunk."""
        ...

    def response(self) -> Any:
        """The answer as far as it has come."""
        ...


class Stream(Generic[Delta, Whole]):
    """An answer that is being produced. All iterators continue where another stopped.

    Attributes:
        request_id: the request's id, which `Client.cancel` takes.
    """

    def __init__(self, call: Any, request_id: str, received: Received, whole: Callable[[Any], Whole]) -> None:
        self._call = call
        self._received = received
        self._whole = whole
        self._cancelled = False
        self.request_id = request_id

    def deltas(self) -> Iterator[Delta]:
        """All that is added, whatever it is added to, and why each part of it ended.

        Raises:
            OctetRpcError: when the call fails; a call that `cancel` ended has not failed.
        """
        try:
            for chunk in self._call:
                self._received.add(chunk)
                yield from chunk.deltas
        except grpc.RpcError as error:
            if not (self._cancelled and error.code() == grpc.StatusCode.CANCELLED):
                raise to_octet_error(error) from None

    def answer(self) -> Whole:
        """The whole answer; reads what is left of it first.

        Raises:
            OctetRpcError: when the call fails.
        """
        for _ in self.deltas():
            pass
        return self._whole(self._received.response())

    def cancel(self) -> None:
        """Stops the model's work. What was received remains; iterators end."""
        self._cancelled = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class ChatStream(Stream[chat_service_pb2.CandidateDelta, Answer]):
    """An answer that is being produced. Iterate it for text."""

    def __init__(self, call: Any, request_id: str) -> None:
        super().__init__(call, request_id, ChunkAccumulator(), Answer)

    def __iter__(self) -> Iterator[str]:
        """The first candidate's text, piece by piece.

        Raises:
            OctetRpcError: when the call fails.
        """
        for delta in self.deltas():
            if delta.text and delta.index == 0:
                yield delta.text


class CompletionStream(Stream[completion_service_pb2.CompletionDelta, Completions]):
    """Completions that are being produced. Iterate them for the text of the first prompt's first one."""

    def __init__(self, call: Any, request: completion_service_pb2.CompletionRequest) -> None:
        received = CompletionAccumulator(len(request.prompts))
        super().__init__(call, request.request_id, received, Completions)

    def __iter__(self) -> Iterator[str]:
        """The first completion's text, piece by piece.

        Raises:
            OctetRpcError: when the call fails.
        """
        for delta in self.deltas():
            if delta.text and delta.prompt_index == delta.index == 0:
                yield delta.text


class AsyncStream(Generic[Delta, Whole]):
    """`Stream` for asyncio: iterate it with `async for`, await `answer`.

    Attributes:
        request_id: the request's id, which `AsyncClient.cancel` takes.
    """

    def __init__(self, call: Any, request_id: str, received: Received, whole: Callable[[Any], Whole]) -> None:
        self._call = call
        self._received = received
        self._whole = whole
        self._cancelled = False
        self.request_id = request_id

    async def deltas(self) -> AsyncIterator[Delta]:
        """All that is added, whatever it is added to, and why each part of it ended.

        Raises:
            OctetRpcError: when the call fails; a call that `cancel` ended has not failed.
        """
        try:
            while (chunk := await self._call.read()) is not grpc.aio.EOF:
                self._received.add(chunk)
                for delta in chunk.deltas:
                    yield delta
        except grpc.aio.AioRpcError as error:
            if not (self._cancelled and error.code() == grpc.StatusCode.CANCELLED):
                raise to_octet_error(error) from None
        except asyncio.CancelledError:
            # What gRPC raises out of a cancelled call is what asyncio raises in a cancelled task.
            if not self._cancelled:
                raise

    async def answer(self) -> Whole:
        """The whole answer; reads what is left of it first.

        Raises:
            OctetRpcError: when the call fails.
        """
        async for _ in self.deltas():
            pass
        return self._whole(self._received.response())

    def cancel(self) -> None:
        """Stops the model's work. What was received remains; iterators end."""
        self._cancelled = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()


class AsyncChatStream(AsyncStream[chat_service_pb2.CandidateDelta, Answer]):
    """`ChatStream` for asyncio."""

    def __init__(self, call: Any, request_id: str) -> None:
        super().__init__(call, request_id, ChunkAccumulator(), Answer)

    async def __aiter__(self) -> AsyncIterator[str]:
        """The first candidate's text, piece by piece.

        Raises:
            OctetRpcError: when the call fails.
        """
        async for delta in self.deltas():
            if delta.text and delta.index == 0:
                yield delta.text


class AsyncCompletionStream(AsyncStream[completion_service_pb2.CompletionDelta, Completions]):
    """`CompletionStream` for asyncio."""

    def __init__(self, call: Any, request: completion_service_pb2.CompletionRequest) -> None:
        received = CompletionAccumulator(len(request.prompts))
        super().__init__(call, request.request_id, received, Completions)

    async def __aiter__(self) -> AsyncIterator[str]:
        """The first completion's text, piece by piece.

        Raises:
            OctetRpcError: when the call fails.
        """
        async for delta in self.deltas():
            if delta.text and delta.prompt_index == delta.index == 0:
                yield delta.text
