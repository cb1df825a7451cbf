"""Who goes next where few are served at a time, and callers take turns."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

from octet.rpc.admission.fair_queue import FairQueue, Waiting


class Served(Waiting, Protocol):
    """What waits for its turn."""

    def start(self, now: float) -> None:
        """It is its turn."""
        ...


S = TypeVar("S", bound=Served)


class Turns(Generic[S]):
    """Who is served, and who waits.

    Args:
        at_once: how many are served at the same time. Of one caller one less is, so that another's first one
            starts at once.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._queue: FairQueue[S] = FairQueue()
        self._running: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._queue) + self._running.total()

    def of(self, caller: str) -> int:
        """How many a caller has, served and waiting."""
        return self._running[caller] + self._waiting[caller]

    def displaced_by(self, caller: str) -> S | None:
        """Who has to make room for a newcomer where too many wait; None when the newcomer has to go."""
        return self._queue.displaced_by(caller, 0)

    def push(self, item: S) -> None:
        """Has it wait for its turn."""
        self._queue.push(item)
        self._waiting[item.caller] += 1

    def drop(self, item: S) -> None:
        """It waits no more."""
        self._queue.remove(item)
        self._waiting[item.caller] -= 1

    def leave(self, caller: str) -> None:
        """One of the caller's has been served."""
        self._running[caller] -= 1

    def ready(self) -> Iterator[S]:
        """Those for whom there is room, in order; nothing must change meanwhile."""
        # The first is of the caller with the fewest running: where he has no room, nobody who waits has.
        return takewhile(lambda item: self._has_room(item.caller), self._queue.in_turn(self._running))

    def next(self, can_start: Callable[[S], bool]) -> S | None:
        """Whose turn it is of those that can start; None when there is no room or nobody can."""
        return next(filter(can_start, self.ready()), None)

    def serve(self, item: S) -> None:
        """It is served from now on."""
        self._queue.serve(item)
        self._waiting[item.caller] -= 1
        self._running[item.caller] += 1

    def start_next(self, now: float) -> None:
        """Starts those whose turn it is."""
        while (item := next(self.ready(), None)) is not None:
            self.serve(item)
            item.start(now)

    def _has_room(self, caller: str) -> bool:
        return self._running.total() < self._at_once and self._running[caller] < self._at_once - 1
