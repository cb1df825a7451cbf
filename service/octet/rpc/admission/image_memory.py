"""The memory that pictures may take: while they are decoded, and until the engine has them."""

from collections import Counter
from collections.abc import Mapping

from octet.config.images import ImageMemoryLimits
from octet.rpc.admission.ticket import Ticket


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

    def open(self, limits: ImageMemoryLimits) -> None:
        """Sets how much there is."""
        self._limits = limits

    def fits_server(self, size: int) -> bool:
        """Whether so many bytes more are there."""
        return self._used + size <= self._limits.server

    def fits(self, caller: str, size: int) -> bool:
        """Whether so many bytes more are there, and may be this caller's."""
        return not size or (self.fits_server(size) and self._callers[caller] + size <= self._limits.caller)

    def give(self, ticket: Ticket, size: int) -> None:
        """From now on a request has so many bytes, whatever it had before."""
        change = size - ticket.image_bytes
        self._used += change
        self._callers[ticket.caller] += change
        if not self._callers[ticket.caller]:
            del self._callers[ticket.caller]
        ticket.image_bytes = size


class MemoryLine:
    """Those who want memory, asked one after the other who can have it now.

    Nobody takes what the server has not enough of before one who was asked earlier, or that one would never
    find enough. Whoever needs none passes, and who waits because its own caller has too much holds up nobody.

    Args:
        memory: what there is.
        lacking: whether somebody before all of them waits for what the server has not enough of.
    """

    def __init__(self, memory: ImageMemory, *, lacking: bool) -> None:
        self._memory = memory
        self._lacking = lacking

    def lets_pass(self, ticket: Ticket) -> bool:
        """Whether the ticket's memory is there for it; asked once of each, in order."""
        size = ticket.cost.image_bytes
        if size and self._lacking:
            return False
        if self._memory.fits(ticket.caller, size):
            return True
        self._lacking = not self._memory.fits_server(size)
        return False
