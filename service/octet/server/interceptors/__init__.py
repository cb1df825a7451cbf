"""What every call passes on its way to a servicer."""

from collections.abc import Sequence

import grpc

from octet.config import ServerConfig
from octet.server.interceptors.auth import AuthInterceptor
from octet.server.interceptors.errors import ErrorInterceptor
from octet.server.interceptors.request_id import RequestIdInterceptor


def interceptors(config: ServerConfig) -> Sequence[grpc.aio.ServerInterceptor]:
    """The interceptors in the order in which a call passes them.

    Whatever comes after `ErrorInterceptor` raises domain errors; whatever comes after `RequestIdInterceptor`
    logs with the call's id.
    """
    chain: list[grpc.aio.ServerInterceptor] = [RequestIdInterceptor(), ErrorInterceptor()]
    if config.api_key is not None:
        chain.append(AuthInterceptor(config.api_key))
    return chain
