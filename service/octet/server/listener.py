"""The gRPC server object: its transport settings, its TCP port and its Unix socket."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence

import grpc

from octet.config import ServerConfig
from octet.errors import StartupError
from octet.server.grpc_faults import mend

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Longest message sent: very many log probabilities."""

NEVER_MS = 2**31 - 1
"""What gRPC takes for "never"."""


def make_server(config: ServerConfig, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
    """A server without services or port."""
    mend()
    return grpc.aio.server(
        interceptors=interceptors,
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
            # Between the two limits gRPC would refuse at random.
            ("grpc.max_metadata_size", config.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", config.max_metadata_bytes),
            ("grpc.max_concurrent_streams", config.max_concurrent_streams),
            *_window(config.window_bytes),
            # Two servers on one port would share its connections at random; a busy port is an error instead.
            ("grpc.so_reuseport", 0),
            # Clients may ping while they wait for a long answer; by default gRPC closes the connection of one
            # that pings more than once in 5 minutes ("too_many_pings").
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(config.min_ping_interval_seconds)),
            # A client that vanished without closing its connection is noticed within a minute.
            ("grpc.keepalive_time_ms", _ms(config.keepalive_seconds)),
            ("grpc.keepalive_timeout_ms", _ms(config.keepalive_timeout_seconds)),
            # Without this one, gRPC 1.85 closes the connection a minute after the unanswered ping.
            ("grpc.http2.ping_timeout_ms", _ms(config.keepalive_timeout_seconds)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_connection_age_ms", _ms(config.max_connection_age_seconds) or NEVER_MS),
            ("grpc.max_connection_age_grace_ms", _ms(config.max_connection_age_grace_seconds)),
            ("grpc.enable_channelz", int(config.channelz)),
        ],
    )


def _window(size: int) -> list[tuple[str, int]]:
    """The options for a fixed window of `size` bytes; none for 0."""
    # gRPC takes the size only where it does not measure by itself.
    return [("grpc.http2.lookahead_bytes", size), ("grpc.http2.bdp_probe", 0)] if size else []


def listen(server: grpc.aio.Server, config: ServerConfig, credentials: grpc.ServerCredentials | None) -> int:
    """Opens the TCP port, in plain text without `credentials`, and the Unix socket, as the settings say.

    Returns:
        The TCP port's number; 0 where none is opened.

    Raises:
        StartupError: when that is not possible, with the reason.
    """
    if config.uds is not None:
        _listen_on_socket(server, os.path.abspath(config.uds), config.uds_mode)
    return _listen_on_port(server, config.host.strip("[]"), config.port, credentials) if config.tcp else 0


def addresses(config: ServerConfig, port: int) -> str:
    """Where clients reach the server, for the log."""
    tcp = [f"{config.host}:{port}"] if config.tcp else []
    uds = [] if config.uds is None else [f"unix:{os.path.abspath(config.uds)}"]
    return " and ".join((*uds, *tcp))


def _listen_on_port(
    server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None
) -> int:
    _check_bindable(host, port)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}: {error}") from None


def _listen_on_socket(server: grpc.aio.Server, path: str, mode: int) -> None:
    _remove_stale_socket(path)
    try:
        # gRPC does not say why it cannot bind.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(path)
        os.unlink(path)
    except OSError as error:
        raise StartupError(f"--uds: cannot listen on {path}: {error.strerror or error}") from None
    try:
        # The socket is never there with other permissions.
        with _umask(0o777 & ~mode):
            server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise StartupError(f"--uds: cannot listen on {path}: {error}") from None


def _remove_stale_socket(path: str) -> None:
    """Removes the socket of a server that ended without doing so; leaves everything else alone.

    Raises:
        StartupError: when a server still listens there, or the path is something else.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise StartupError(f"--uds: {path} is there already, and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except OSError as error:
        raise StartupError(f"--uds: cannot listen on {path}: {error.strerror or error}") from None
    raise StartupError(f"--uds: {path} is in use; stop what listens there or choose another path")


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _check_bindable(host: str, port: int) -> None:
    """Raises the StartupError that says why the port cannot be had; gRPC itself does not tell."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise StartupError(explain_bind_error(error, host, port)) from None


def explain_bind_error(error: OSError, host: str, port: int, *, flags: str = "") -> str:
    """One line that says why the port cannot be had, for --host and --port or, say, --metrics-port."""
    option = f"--{flags}port"
    if isinstance(error, socket.gaierror):
        return f"--{flags}host: {host} cannot be resolved ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what listens there or choose another {option} (0: any)"
    if error.errno == errno.EACCES:
        return f"{option}: {port} needs privileges that this process lacks; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--{flags}host: {host} is no address of this machine"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
