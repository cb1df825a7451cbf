"""The API key: every call but health checks must carry it."""

import hmac
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health

from octet.errors import UnauthenticatedError
from octet.rpc import call
from octet.server.interceptors.handlers import Context, Continuation, Handler, MaybeHandler

CALLER = "default"
"""Name of the one key's holder."""

_OPEN_PREFIX = f"/{health.SERVICE_NAME}/"


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without `authorization: Bearer KEY`, before anything of the request is read.

    Health checks stay open, because probes carry no keys. Reflection needs the key.
    """

    def __init__(self, api_key: str) -> None:
        self._expected = f"Bearer {api_key}".encode()

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Lets the call through, or gives a handler that refuses it."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN_PREFIX):
            return handler
        given = dict(handler_call_details.invocation_metadata).get("authorization")
        if given is None:
            return _refuse("the call carries no API key; send metadata 'authorization: Bearer KEY'")
        if not hmac.compare_digest(_as_bytes(given), self._expected):
            return _refuse("the API key is wrong")
        call.caller.set(CALLER)
        return handler


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _refuse(message: str) -> Handler:
    """A handler that fails without reading the request, whatever the method's kind is."""

    async def refuse(requests: Any, context: Context) -> NoReturn:
        raise UnauthenticatedError(message)

    return grpc.stream_stream_rpc_method_handler(refuse)
