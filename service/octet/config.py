"""The server's own settings, checked once, before anything is loaded."""

import ipaddress
import re
from dataclasses import dataclass, field

MIB = 1024 * 1024

# A name or an address, with a port or without; names that are not ASCII are written in Punycode.
_HOST = re.compile(r"(?:[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of `octet serve`. What the model needs is in the engine's own arguments.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one, which the log then names.
        api_key: the key that every call but health must carry; None leaves the server open.
        allow_insecure: permits plain text without a key on an address that other machines can reach.
        max_message_bytes: longest gRPC message taken.
        max_image_bytes: longest encoded picture taken.
        max_image_pixels: largest picture taken, width times height; checked before it is decoded.
        image_threads: pictures decoded at the same time.
        image_hosts: names of hosts that pictures are fetched from by https: URI, NAME:PORT for a port other
            than 443; none are fetched from elsewhere.
        image_fetch_seconds: how long fetching one picture may take.
        drain_seconds: how long running calls may go on after SIGTERM.
        reflection: whether grpc.reflection answers.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    api_key: str | None = field(default=None, repr=False)
    allow_insecure: bool = False
    max_message_bytes: int = 64 * MIB
    max_image_bytes: int = 20 * MIB
    max_image_pixels: int = 64_000_000
    image_threads: int = 2
    image_hosts: tuple[str, ...] = ()
    image_fetch_seconds: float = 10.0
    drain_seconds: float = 30.0
    reflection: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port: {self.port} is not between 0 and 65535")
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("--api-key: the key is empty; leave the flag out to serve without a key")
        for flag, value in (
            ("--max-message-bytes", self.max_message_bytes),
            ("--max-image-bytes", self.max_image_bytes),
            ("--max-image-pixels", self.max_image_pixels),
            ("--image-threads", self.image_threads),
        ):
            if value < 1:
                raise ValueError(f"{flag}: {value} is not at least 1")
        for host in self.image_hosts:
            match = _HOST.fullmatch(host)
            if match is None or int(match["port"] or 443) > 65535:
                raise ValueError(f"--image-host: {host!r} is not a host's name, such as images.example.com")
        if not self.image_fetch_seconds > 0:
            raise ValueError(f"--image-fetch-seconds: {self.image_fetch_seconds} is not above 0")
        if self.drain_seconds < 0:
            raise ValueError(f"--drain-seconds: {self.drain_seconds} is negative")
        if self.api_key is None and not self.allow_insecure and not is_loopback(self.host):
            raise ValueError(
                f"--host: {self.host} can be reached from other machines, and there is no --api-key; "
                "give a key, or --allow-insecure when the network itself keeps strangers out"
            )


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
