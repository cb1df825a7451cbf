"""What every call passes on its way to a servicer."""

from collections.abc import Sequence

import grpc

from octet.rpc.reading import RequestReader
from octet.server.interceptors.auth import AuthInterceptor
from octet.server.interceptors.calls import CallInterceptor
from octet.server.interceptors.errors import ErrorInterceptor
from octet.server.interceptors.load_report import LoadReportInterceptor
from octet.server.interceptors.peer import PeerInterceptor
from octet.server.interceptors.request_id import RequestIdInterceptor
from octet.server.interceptors.requests import ReadInterceptor, UnreadableInterceptor
from octet.server.interceptors.unknown_method import UnknownMethodInterceptor
from octet.server.keys import KeyRing
from octet.telemetry.load_report import LoadReporter
from octet.telemetry.metrics import Metrics
from octet.telemetry.tracing import Tracing


def interceptors(
    reader: RequestReader,
    keys: KeyRing | None,
    metrics: Metrics,
    tracing: Tracing,
    reporter: LoadReporter | None,
    *,
    admin_keys: KeyRing | None = None,
    name_peers: bool,
) -> Sequence[grpc.aio.ServerInterceptor]:
    """The interceptors in the order in which a call passes them.

    Whatever comes after `ErrorInterceptor` raises domain errors; whatever comes after `RequestIdInterceptor`
    logs with the call's id, and whatever comes after `CallInterceptor` is measured.

    Args:
        reader: reads requests.
        keys: the valid API keys; None lets every call in.
        admin_keys: the valid keys of AdminService; None where there is no such service.
        name_peers: whether callers without a key are named by their certificates.
        metrics: count the calls.
        tracing: makes the calls' spans.
        reporter: says with each chat how busy the server is; None says nothing.
    """
    chain: list[grpc.aio.ServerInterceptor] = [
        ReadInterceptor(reader),
        RequestIdInterceptor(),
        CallInterceptor(metrics, tracing),
        ErrorInterceptor(),
    ]
    if keys is None and name_peers:
        chain.append(PeerInterceptor())
    if keys is not None or admin_keys is not None:
        chain.append(AuthInterceptor(keys, admin_keys))
    if reporter is not None:
        chain.append(LoadReportInterceptor(reporter))
    return (*chain, UnknownMethodInterceptor(), UnreadableInterceptor(reader))
