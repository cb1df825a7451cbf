"""The memory that pictures may take: while they are decoded, and until the engine has them."""

from collections import Counter
from collections.abc import Mapping

from octet.config.images import ImageMemoryLimits


class ImageMemory:
    """Counts the memory that was given to requests. A request has all that it needs from the start or waits.

    Args:
        limits: how much there is.
    """

    def __init__(self, limits: ImageMemoryLimits) -> None:
        self._limits = limits
        self._callers: Counter[str] = Counter()
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes given to requests."""
        return self._used

    @property
    def callers(self) -> Mapping[str, int]:
        """Bytes given to each caller; callers without are missing."""
        return self._callers

    def fits_server(self, size: int) -> bool:
        """Whether so many bytes more are there."""
        return self._used + size <= self._limits.server

    def fits(self, caller: str, size: int) -> bool:
        """Whether so many bytes more are there, and may be this caller's."""
        return not size or (self.fits_server(size) and self._callers[caller] + size <= self._limits.caller)

    def take(self, caller: str, size: int) -> None:
        """Gives so many bytes to a caller; a negative number takes them back."""
        self._used += size
        self._callers[caller] += size
        if not self._callers[caller]:
            del self._callers[caller]
