"""The gRPC server object: its transport settings and its port."""

import errno
import socket
from collections.abc import Sequence

import grpc

from octet.config import ServerConfig
from octet.errors import StartupError

MIN_PING_INTERVAL_MS = 10_000
"""How often clients may ping."""


def make_server(config: ServerConfig, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
    """A server without services or port."""
    return grpc.aio.server(
        interceptors=interceptors,
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            # Two servers on one port would share its connections at random; a busy port is an error instead.
            ("grpc.so_reuseport", 0),
            # Clients may ping while they wait for a long answer; by default gRPC closes the connection of one
            # that pings more than once in 5 minutes ("too_many_pings").
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            # A client that vanished without closing its connection is noticed within a minute.
            ("grpc.keepalive_time_ms", 45_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
        ],
    )


def listen(server: grpc.aio.Server, config: ServerConfig) -> int:
    """Opens the port and returns its number.

    Raises:
        StartupError: when that is not possible, with the reason.
    """
    host = config.host.strip("[]")
    _check_bindable(host, config.port)
    address = f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}: {error}") from None


def _check_bindable(host: str, port: int) -> None:
    """Raises the StartupError that says why the port cannot be had; gRPC itself does not tell."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise StartupError(f"--host: {host} cannot be resolved ({error.strerror})") from None
    except OSError as error:
        raise StartupError(_explain(error, host, port)) from None


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what listens there or choose another --port (0: any)"
    if error.errno == errno.EACCES:
        return f"--port: {port} needs privileges that this process lacks; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host: {host} is no address of this machine"
    return f"cannot listen on {host} port {port}: {error.strerror}"
