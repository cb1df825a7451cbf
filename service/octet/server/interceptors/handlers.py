"""Wraps method handlers of all four kinds alike."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import grpc

# Quoted: these classes take type arguments in their stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]]
Proceed = Callable[[], Awaitable[Any]]
Around = Callable[[Any, Context, Proceed], Awaitable[Any]]
"""Called with the request (or the iterator of requests), the context, and what answers the call."""


def wrap(handler: Handler, around: Around) -> Handler:
    """A handler that runs `around` and lets it run `handler`'s own behaviour.

    Responses of streaming methods are written to the context, so that `around` sees the whole call as one
    coroutine, whichever way the method was written.
    """
    behaviour: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )

    async def call(request: Any, context: Context) -> Any:
        async def proceed() -> Any:
            return await _finish(behaviour(request, context), context)

        return await around(request, context, proceed)

    return make_handler(
        call,
        request_streaming=handler.request_streaming,
        response_streaming=handler.response_streaming,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def make_handler(
    behaviour: Any,
    *,
    request_streaming: bool,
    response_streaming: bool,
    request_deserializer: Any,
    response_serializer: Any,
) -> Handler:
    """A handler of one of the four kinds; without a deserializer its requests are bytes."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[request_streaming, response_streaming]
    return make(behaviour, request_deserializer, response_serializer)


def with_messages(handler: Handler, change: Callable[[AsyncIterator[Any]], AsyncIterator[Any]]) -> Handler:
    """The handler of a method that takes many messages, which is given what `change` makes of them."""
    behaviour: Any = handler.stream_unary or handler.stream_stream

    async def answer(messages: AsyncIterator[Any], context: Context) -> Any:
        return await _finish(behaviour(change(messages), context), context)

    return make_handler(
        answer,
        request_streaming=True,
        response_streaming=handler.response_streaming,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


async def _finish(answer: Any, context: Context) -> Any:
    """Goes through with what a behaviour gave: a coroutine, or responses to be written."""
    if not inspect.isasyncgen(answer):
        return await answer
    async with aclosing(answer):
        async for response in answer:
            await context.write(response)
    return None


class AroundInterceptor(grpc.aio.ServerInterceptor, ABC):
    """Runs `around` about each call that has a handler and that it `concerns`."""

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Wraps the handler."""
        handler = await continuation(handler_call_details)
        if handler is None or not self.concerns(handler_call_details.method):
            return handler
        return wrap(handler, partial(self.around, handler_call_details))

    def concerns(self, method: str) -> bool:
        """Whether calls of a method, "/package.Service/Method", are to be wrapped: all, by default."""
        return True

    @abstractmethod
    async def around(
        self, details: grpc.HandlerCallDetails, request: Any, context: Context, proceed: Proceed
    ) -> Any:
        """Answers a call by `proceed`: see `Around`."""
