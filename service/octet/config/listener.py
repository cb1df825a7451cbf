"""Where the server listens, and how it talks."""

import ipaddress
from dataclasses import dataclass

from octet.config.checks import at_least

_MIN_WINDOW_BYTES = 1024
_MAX_WINDOW_BYTES = 2**31 - 1
_MAX_SECONDS = 2_000_000


@dataclass(frozen=True)
class ListenerConfig:
    """The gRPC port, and what HTTP/2 connections are held to.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one, which the log then names.
        uds: path of a Unix socket to listen on as well; None: none.
        uds_mode: permissions of that socket; whoever may write to it may connect.
        tcp: whether the TCP port is opened at all.
        max_message_bytes: longest gRPC message taken. By default the largest picture, and what the text of a
            request may take with a context window of 128 Ki tokens of at most 64 bytes
            (`octet.translate.request_limits`).
        max_metadata_bytes: longest metadata taken with a call.
        max_concurrent_streams: calls at the same time over one connection; a client waits with further ones.
        window_bytes: HTTP/2 window, what a client may send in one call before the server has taken it; 0
            leaves it to gRPC, which begins with 4 MiB and follows the connection's bandwidth and latency.
        keepalive_seconds: silence after which a client is pinged.
        keepalive_timeout_seconds: how long its answer may take before the connection is closed.
        min_ping_interval_seconds: how often clients may ping; one that pings more often is sent away.
        max_connection_age_seconds: age at which a connection's client is asked to open another, so that it
            finds new replicas; 0: never. gRPC varies it by 10 % either way.
        max_connection_age_grace_seconds: how long calls on the old connection may go on after that.
        write_timeout_seconds: how long a client may leave a part of a streamed answer untaken.
        reflection: whether grpc.reflection answers.
        channelz: whether grpc.channelz answers.
        smg: whether vllm.grpc.engine.VllmEngine, which SMG gateways ask, answers, too.
        kserve: whether inference.GRPCInferenceService, which KServe's and Triton's clients ask, answers, too.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    uds: str | None = None
    uds_mode: int = 0o660
    tcp: bool = True
    max_message_bytes: int = 32 * 1024 * 1024
    max_metadata_bytes: int = 16 * 1024
    max_concurrent_streams: int = 1000
    window_bytes: int = 0
    keepalive_seconds: float = 45.0
    keepalive_timeout_seconds: float = 10.0
    min_ping_interval_seconds: float = 10.0
    max_connection_age_seconds: float = 1800.0
    max_connection_age_grace_seconds: float = 3600.0
    write_timeout_seconds: float = 60.0
    reflection: bool = True
    channelz: bool = False
    smg: bool = False
    kserve: bool = False

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port: {self.port} is not between 0 and 65535")
        if self.uds is None and not self.tcp:
            raise ValueError("--no-tcp: leaves nothing to listen on without --uds")
        if self.uds is not None and not self.uds:
            raise ValueError("--uds: the path is empty")
        if not 0 <= self.uds_mode <= 0o777:
            raise ValueError(f"--uds-mode: {self.uds_mode:o} is not between 0 and 777")
        at_least(1, "--max-message-bytes", self.max_message_bytes)
        # What HTTP/2 and gRPC themselves send takes some.
        at_least(1024, "--max-metadata-bytes", self.max_metadata_bytes)
        at_least(1, "--max-concurrent-streams", self.max_concurrent_streams)
        if self.window_bytes != 0 and not _MIN_WINDOW_BYTES <= self.window_bytes <= _MAX_WINDOW_BYTES:
            raise ValueError(
                f"--window-bytes: {self.window_bytes} is neither 0 nor between {_MIN_WINDOW_BYTES} and "
                f"{_MAX_WINDOW_BYTES}"
            )
        for flag, seconds in (
            ("--keepalive-seconds", self.keepalive_seconds),
            ("--keepalive-timeout-seconds", self.keepalive_timeout_seconds),
            ("--max-connection-age-grace-seconds", self.max_connection_age_grace_seconds),
            ("--write-timeout-seconds", self.write_timeout_seconds),
        ):
            _check_seconds(flag, seconds, zero=False)
        for flag, seconds in (
            ("--min-ping-interval-seconds", self.min_ping_interval_seconds),
            ("--max-connection-age-seconds", self.max_connection_age_seconds),
        ):
            _check_seconds(flag, seconds, zero=True)


def _check_seconds(flag: str, seconds: float, *, zero: bool) -> None:
    """Raises ValueError for what gRPC cannot take as whole milliseconds in 32 bits."""
    least = 0 if zero else 0.001
    if not least <= seconds <= _MAX_SECONDS:
        raise ValueError(f"{flag}: {seconds} is not between {least} and {_MAX_SECONDS}")


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
