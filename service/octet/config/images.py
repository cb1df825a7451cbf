"""Which pictures are taken, and from where."""

import re
from dataclasses import dataclass

from octet.config.checks import at_least
from octet.config.memory import total_memory

# A name or an address, with a port or without; names that are not ASCII are written in Punycode.
_HOST = re.compile(r"(?:[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{1,5}))?")


_SERVER_SHARE = 25
_LEAST_MEMORY = 256 * 2**20


@dataclass(frozen=True, slots=True)
class ImageMemoryLimits:
    """Bytes that decoding pictures may take, and decoded ones that the engine does not have yet.

    Attributes:
        server: of all requests together.
        caller: of one caller's requests together; not above `server`.
        request: of one request; not above `caller`.
    """

    server: int
    caller: int
    request: int


@dataclass(frozen=True)
class ImageConfig:
    """Pictures.

    Attributes:
        max_image_bytes: longest encoded picture taken.
        max_image_pixels: largest picture taken, width times height; checked before it is decoded.
        image_threads: pictures of one caller decoded at the same time, each in a process of its own.
        image_decode_seconds: processor time that decoding one picture may take.
        max_image_memory: bytes that decoding pictures may take, and decoded ones that the engine does not
            have yet; None: a 25th of the machine's memory or of the control group's if that is less, at least
            256 MiB.
        max_image_memory_per_key: of it, of one caller; None: half, at least 256 MiB.
        max_image_memory_per_request: of that, of one request; None: all.
        image_hosts: names of hosts that pictures are fetched from by https: URI, NAME:PORT for a port other
            than 443; none are fetched from elsewhere.
        image_fetch_seconds: how long fetching one picture may take.
    """

    max_image_bytes: int = 20 * 1024 * 1024
    max_image_pixels: int = 64_000_000
    image_threads: int = 2
    image_decode_seconds: float = 10.0
    max_image_memory: int | None = None
    max_image_memory_per_key: int | None = None
    max_image_memory_per_request: int | None = None
    image_hosts: tuple[str, ...] = ()
    image_fetch_seconds: float = 10.0

    @property
    def image_memory(self) -> ImageMemoryLimits:
        """The limits on memory with every number known, none above the one that it is a part of."""
        server = self.max_image_memory or max(_LEAST_MEMORY, total_memory() // _SERVER_SHARE)
        caller = min(server, self.max_image_memory_per_key or max(_LEAST_MEMORY, server // 2))
        return ImageMemoryLimits(server, caller, min(caller, self.max_image_memory_per_request or caller))

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        at_least(1, "--max-image-bytes", self.max_image_bytes)
        at_least(1, "--max-image-pixels", self.max_image_pixels)
        at_least(1, "--image-threads", self.image_threads)
        if not self.image_decode_seconds > 0:
            raise ValueError(f"--image-decode-seconds: {self.image_decode_seconds} is not above 0")
        for flag, size in (
            ("--max-image-memory", self.max_image_memory),
            ("--max-image-memory-per-key", self.max_image_memory_per_key),
            ("--max-image-memory-per-request", self.max_image_memory_per_request),
        ):
            if size is not None:
                at_least(1, flag, size)
        for host in self.image_hosts:
            match = _HOST.fullmatch(host)
            if match is None or int(match["port"] or 443) > 65535:
                raise ValueError(f"--image-host: {host!r} is not a host's name, such as images.example.com")
        if not self.image_fetch_seconds > 0:
            raise ValueError(f"--image-fetch-seconds: {self.image_fetch_seconds} is not above 0")
