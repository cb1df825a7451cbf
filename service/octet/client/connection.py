"""What both clients tell gRPC."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from octet import __version__

DEFAULT_TARGET = "127.0.0.1:50051"

CHAT_TIMEOUT = 600.0
"""Seconds that a chat may take unless told otherwise."""

QUICK_TIMEOUT = 10.0
"""Seconds that every other call may take."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024


# A refusal for want of room comes before any work, and says in its trailers when to come again. A lost
# connection costs at most an answer that is half made, and gRPC never repeats a call of which something has
# arrived.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": f"octet.v1.{name}Service"}
                for name in ("Chat", "Completion", "Embedding", "Model")
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
                "initialBackoff": "0.2s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
            },
        }
    ],
}

CHANNEL_OPTIONS = (
    ("grpc.primary_user_agent", f"octet-client/{__version__}"),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A server that vanished in the middle of a long silent answer is noticed within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to encrypt, and whom to trust.

    Attributes:
        ca: PEM file of the authorities that vouch for the server; None: those that gRPC brings along.
        certificate: PEM file with this client's own certificate chain, for a server that asks for one.
        key: PEM file of its private key.
        server_name: the name that the server's certificate must carry, where it is not the target's.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError when only one of certificate and key is given."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate and its key go together: give both or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC makes of it.

        Raises:
            OSError: when a file cannot be read.
        """
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def channel_options(tls: Tls | None) -> list[tuple[str, Any]]:
    """The options of a channel."""
    options: list[tuple[str, Any]] = [*CHANNEL_OPTIONS]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What is sent along with each call."""
    return () if api_key is None else (("authorization", f"Bearer {api_key}"),)


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
