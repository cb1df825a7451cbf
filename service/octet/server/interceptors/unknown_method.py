"""Calls of methods that nobody serves."""

from typing import Any, NoReturn

import grpc

from octet.errors import MethodNotFoundError
from octet.rpc import call
from octet.server.interceptors.handlers import Context, Continuation, Handler, MaybeHandler


async def _refuse(requests: Any, context: Context) -> NoReturn:
    raise MethodNotFoundError("this server has no such method; reflection lists those it has")


_UNKNOWN: Handler = grpc.stream_stream_rpc_method_handler(_refuse)


class UnknownMethodInterceptor(grpc.aio.ServerInterceptor):
    """Has such calls answered as all others are: with a request id, counted, and logged.

    gRPC would end them by itself, past all interceptors.
    """

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Puts a handler where there is none."""
        handler = await continuation(handler_call_details)
        call.served.set(handler is not None)
        return handler or _UNKNOWN
