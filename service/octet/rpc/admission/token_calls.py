"""Calls that ask about tokens: few are answered at a time, and callers take turns."""

from collections import Counter
from typing import Generic, Protocol, TypeVar

from octet.rpc.admission.fair_queue import FairQueue, Waiting

AT_ONCE = 3
"""Calls that are answered at the same time. One caller has one less at most, so that another's first call
starts at once."""


class TokenCall(Waiting, Protocol):
    """A call."""

    def start(self, now: float) -> None:
        """It is its turn."""
        ...


C = TypeVar("C", bound=TokenCall)


class TokenCalls(Generic[C]):
    """Who is answered, and who waits."""

    def __init__(self) -> None:
        self._queue: FairQueue[C] = FairQueue()
        self._running: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._queue) + self._running.total()

    def of(self, caller: str) -> int:
        """How many a caller has, answered and waiting."""
        return self._running[caller] + self._waiting[caller]

    def displaced_by(self, caller: str) -> C | None:
        """Who has to make room for a newcomer where too many wait; None when the newcomer has to go."""
        return self._queue.displaced_by(caller, 0)

    def push(self, call: C) -> None:
        """Has a call wait; `start_next` starts it."""
        self._queue.push(call)
        self._waiting[call.caller] += 1

    def drop(self, call: C) -> None:
        """A call waits no more."""
        self._queue.remove(call)
        self._waiting[call.caller] -= 1

    def leave(self, call: C) -> None:
        """A call has been answered."""
        self._running[call.caller] -= 1

    def start_next(self, now: float) -> None:
        """Starts those whose turn it is."""
        # The next is the caller with the fewest running: where he has no room, nobody who waits has.
        while (call := self._queue.next(self._running)) is not None and self._has_room(call.caller):
            self._queue.serve(call)
            self._waiting[call.caller] -= 1
            self._running[call.caller] += 1
            call.start(now)

    def _has_room(self, caller: str) -> bool:
        return self._running.total() < AT_ONCE and self._running[caller] < AT_ONCE - 1
