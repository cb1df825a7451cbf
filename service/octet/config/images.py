"""Which pictures are taken, and from where."""

import re
from dataclasses import dataclass

from octet.config.checks import at_least

# A name or an address, with a port or without; names that are not ASCII are written in Punycode.
_HOST = re.compile(r"(?:[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class ImageConfig:
    """Pictures.

    Attributes:
        max_image_bytes: longest encoded picture taken.
        max_image_pixels: largest picture taken, width times height; checked before it is decoded.
        image_threads: pictures decoded at the same time.
        image_hosts: names of hosts that pictures are fetched from by https: URI, NAME:PORT for a port other
            than 443; none are fetched from elsewhere.
        image_fetch_seconds: how long fetching one picture may take.
    """

    max_image_bytes: int = 20 * 1024 * 1024
    max_image_pixels: int = 64_000_000
    image_threads: int = 2
    image_hosts: tuple[str, ...] = ()
    image_fetch_seconds: float = 10.0

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        at_least(1, "--max-image-bytes", self.max_image_bytes)
        at_least(1, "--max-image-pixels", self.max_image_pixels)
        at_least(1, "--image-threads", self.image_threads)
        for host in self.image_hosts:
            match = _HOST.fullmatch(host)
            if match is None or int(match["port"] or 443) > 65535:
                raise ValueError(f"--image-host: {host!r} is not a host's name, such as images.example.com")
        if not self.image_fetch_seconds > 0:
            raise ValueError(f"--image-fetch-seconds: {self.image_fetch_seconds} is not above 0")
