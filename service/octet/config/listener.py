"""Where the server listens, and how it talks."""

import ipaddress
from dataclasses import dataclass

from octet.config.checks import at_least


@dataclass(frozen=True)
class ListenerConfig:
    """The gRPC port.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one, which the log then names.
        max_message_bytes: longest gRPC message taken.
        reflection: whether grpc.reflection answers.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    max_message_bytes: int = 64 * 1024 * 1024
    reflection: bool = True

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port: {self.port} is not between 0 and 65535")
        at_least(1, "--max-message-bytes", self.max_message_bytes)


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
