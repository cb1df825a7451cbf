"""Requests are read inside the interceptors, so that what is none ends a call as every other error does.

gRPC itself would read them below: bytes that are no message would end a call UNKNOWN with a traceback in the
log, and a call without a message would never end.
"""

from collections.abc import AsyncIterator
from functools import partial
from itertools import islice
from typing import Any

import grpc

from octet.errors import MalformedRequestError
from octet.rpc import call
from octet.rpc.reading import RequestReader, Unreadable
from octet.server.interceptors.errors import REQUEST_ID_HEADER
from octet.server.interceptors.handlers import (
    AroundInterceptor,
    Context,
    Continuation,
    MaybeHandler,
    Proceed,
    make_handler,
    with_messages,
)

MAX_METADATA_ENTRIES = 1000
"""More make a call malformed. gRPC's core bounds the bytes of each frame of metadata, not their number."""

# Of the messages that come as streams, those that may hold a whole request with its pictures.
_LARGE = frozenset({"inference.ModelInferRequest"})

_LOOKED_AT = ("authorization", REQUEST_ID_HEADER)


class ReadInterceptor(grpc.aio.ServerInterceptor):
    """Reads the one request of a call, for all that follow; an `Unreadable` stands for what is none."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader = reader

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Gives a handler that takes bytes, as many messages as come, where one message is to be taken."""
        entries = len(handler_call_details.invocation_metadata)
        if entries > MAX_METADATA_ENTRIES:
            handler_call_details = _without_most_metadata(handler_call_details)
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.request_streaming:
            return with_messages(handler, partial(_with_metadata, entries))
        message = _message_class(handler.request_deserializer)
        behaviour: Any = handler.unary_unary or handler.unary_stream

        async def read_and_answer(messages: AsyncIterator[bytes], context: Context) -> Any:
            if entries > MAX_METADATA_ENTRIES:
                return await behaviour(Unreadable(_too_much_metadata(entries)), context)
            return await behaviour(await self._read(messages, message), context)

        return make_handler(
            read_and_answer,
            request_streaming=True,
            response_streaming=handler.response_streaming,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    async def _read(self, messages: AsyncIterator[bytes], message: type[Any]) -> Any:
        data = await anext(messages, None)
        if data is None or await anext(messages, None) is not None:
            count = "no whole message" if data is None else "more than one message"
            return Unreadable(MalformedRequestError("", f"the call has {count}; its method takes one"))
        call.request_bytes.set(len(data))
        return await self._reader.read(data, message)


class UnreadableInterceptor(AroundInterceptor):
    """Ends calls whose request could not be read; comes last, when it is known that the caller may call."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader = reader

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Wraps the handler; where many messages are taken, each is read as it comes."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler.request_streaming:
            return await super().intercept_service(continuation, handler_call_details)
        message = _message_class(handler.request_deserializer)
        behaviour: Any = handler.stream_unary or handler.stream_stream

        def answer(messages: AsyncIterator[bytes], context: Context) -> Any:
            return behaviour(self._read_each(messages, message), context)

        return make_handler(
            answer,
            request_streaming=True,
            response_streaming=handler.response_streaming,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    async def _read_each(self, messages: AsyncIterator[bytes], message: type[Any]) -> AsyncIterator[Any]:
        may_be_large = message.DESCRIPTOR.full_name in _LARGE
        async for data in messages:
            call.request_bytes.set(len(data))
            request = (
                await self._reader.read(data, message)
                if may_be_large
                else self._reader.read_small(data, message)
            )
            if isinstance(request, Unreadable):
                raise request.error
            yield request

    async def around(
        self, details: grpc.HandlerCallDetails, request: Any, context: Context, proceed: Proceed
    ) -> Any:
        """Raises what is wrong with the request."""
        if isinstance(request, Unreadable):
            raise request.error
        return await proceed()


def _without_most_metadata(details: grpc.HandlerCallDetails) -> Any:
    # No more of those that are looked at, either, than what tells one from many.
    kept = islice((entry for entry in details.invocation_metadata if entry[0] in _LOOKED_AT), 10)
    # gRPC takes its own class only.
    return type(details)(details.method, tuple(kept))  # type: ignore[call-arg]


async def _with_metadata(entries: int, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The messages of a call with so many entries of metadata."""
    async for message in messages:
        if entries > MAX_METADATA_ENTRIES:
            raise _too_much_metadata(entries)
        yield message


def _too_much_metadata(entries: int) -> MalformedRequestError:
    return MalformedRequestError(
        "", f"the call has {entries} entries of metadata, more than {MAX_METADATA_ENTRIES}"
    )


def _message_class(deserializer: Any) -> type[Any]:
    """The class whose FromString a handler's deserializer is, as in all generated code."""
    message: type[Any] = deserializer.__self__
    return message
