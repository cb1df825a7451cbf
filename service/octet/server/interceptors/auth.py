"""The API key: where there are keys, all calls but health checks carry one; AdminService has its own."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health

from octet.errors import UnauthenticatedError
from octet.rpc import call
from octet.server.interceptors.handlers import (
    Context,
    Continuation,
    Handler,
    MaybeHandler,
    with_messages,
)
from octet.server.keys import KeyRing
from octet.v1 import admin_service_pb2

_OPEN_PREFIX = f"/{health.SERVICE_NAME}/"
_ADMIN_PREFIX = f"/{admin_service_pb2.DESCRIPTOR.services_by_name['AdminService'].full_name}/"
_SCHEME = b"bearer "


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without `authorization: Bearer KEY`, before anything of the request is read.

    Health checks stay open, because probes carry no keys. Reflection and channelz need a key. A call that
    takes many messages may outlast its key, which is looked up again with each of them.

    Args:
        keys: those of callers; None lets every call in but those of AdminService.
        admin_keys: those of AdminService; None where there is no such service.
    """

    def __init__(self, keys: KeyRing | None, admin_keys: KeyRing | None = None) -> None:
        self._keys = keys
        self._admin_keys = admin_keys

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Lets the call through, or gives a handler that refuses it."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        keys = self._admin_keys if method.startswith(_ADMIN_PREFIX) else self._keys
        if handler is None or keys is None or method.startswith(_OPEN_PREFIX):
            return handler
        given = [value for name, value in handler_call_details.invocation_metadata if name == "authorization"]
        if not given:
            return _refuse("the call carries no API key; send metadata 'authorization: Bearer KEY'")
        if len(given) > 1:
            # A proxy that looks at one of them and a server that takes another would disagree on who calls.
            return _refuse(f"the call carries 'authorization' {len(given)} times; send it once")
        let_in = partial(_let_in, keys, _key_in(given[0]))
        try:
            let_in()
        except UnauthenticatedError as error:
            return _refuse(str(error))
        return with_messages(handler, partial(_checked, let_in)) if handler.request_streaming else handler


def _let_in(keys: KeyRing, given: bytes) -> None:
    """Notes who calls, and what they may.

    Raises:
        UnauthenticatedError: it is no valid key.
    """
    key = keys.find(given)
    if key is None:
        raise UnauthenticatedError("the API key is wrong")
    call.caller.set(key.caller)
    call.caller_limits.set(key.limits)


async def _checked(let_in: Callable[[], None], messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The messages, each of them let in."""
    async for message in messages:
        let_in()
        yield message


def _key_in(authorization: str | bytes) -> bytes:
    """The key in the metadata's value; empty, which no key is, where the scheme is not Bearer."""
    value = authorization if isinstance(authorization, bytes) else authorization.encode()
    return value[len(_SCHEME) :] if value[: len(_SCHEME)].lower() == _SCHEME else b""


def _refuse(message: str) -> Handler:
    """A handler that fails without reading the request, whatever the method's kind is."""

    async def refuse(requests: Any, context: Context) -> NoReturn:
        raise UnauthenticatedError(message)

    return grpc.stream_stream_rpc_method_handler(refuse)
