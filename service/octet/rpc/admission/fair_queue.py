"""The order of those who wait: by priority, and fair between callers of the same priority."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What stands in the queue."""

    @property
    def caller(self) -> str:
        """Whose it is."""
        ...

    @property
    def priority(self) -> int:
        """Smaller goes first."""
        ...


W = TypeVar("W", bound=Waiting)


class FairQueue(Generic[W]):
    """A queue in which a caller who floods it stands behind himself, not before the others.

    The smallest priority goes first. Within it the next is the caller with the fewest running, and among
    callers with equally many the one who was served longest ago; his own go in the order in which they came.
    """

    def __init__(self) -> None:
        # By priority; in it by caller what waits, in order.
        self._levels: dict[int, dict[str, deque[W]]] = {}
        self._size = 0
        # When a caller was served last, counted in those who were. There are as many as there are keys.
        self._last_served: Counter[str] = Counter()
        self._served = 0

    def __len__(self) -> int:
        return self._size

    def push(self, item: W, *, first: bool = False) -> None:
        """Adds `item` behind its caller's others of its priority, or before them."""
        waiting = self._levels.setdefault(item.priority, {}).setdefault(item.caller, deque())
        (waiting.appendleft if first else waiting.append)(item)
        self._size += 1

    def remove(self, item: W) -> None:
        """Takes `item` out; its caller's turn remains."""
        level = self._levels[item.priority]
        level[item.caller].remove(item)
        if not level[item.caller]:
            del level[item.caller]
        if not level:
            del self._levels[item.priority]
        self._size -= 1

    def next(self, running: Mapping[str, int]) -> W | None:
        """Whose turn it is, which stays in the queue; None when nobody waits.

        Args:
            running: how much each caller has running; callers with nothing may be missing.
        """
        if not self._levels:
            return None
        level = self._levels[min(self._levels)]
        return level[min(level, key=lambda caller: (running.get(caller, 0), self._last_served[caller]))][0]

    def in_turn(self, running: Mapping[str, int]) -> Iterator[W]:
        """All who wait, in the order in which they are asked whether they can go.

        A caller whose turn it is goes with whatever of its own can; only then are others asked. The queue
        must not change meanwhile.

        Args:
            running: how much each caller has running; callers with nothing may be missing.
        """
        for priority in sorted(self._levels):
            level = self._levels[priority]
            for caller in sorted(level, key=lambda name: (running.get(name, 0), self._last_served[name])):
                yield from level[caller]

    def serve(self, item: W) -> None:
        """Takes `item` out, whose caller's turn comes after the others' now."""
        self.remove(item)
        self._served += 1
        self._last_served[item.caller] = self._served

    def ahead_of(self, caller: str, priority: int) -> int:
        """How many of those who wait would go before a newcomer, if nobody else came."""
        before = 0
        for level, callers in self._levels.items():
            if level < priority:
                before += sum(map(len, callers.values()))
            elif level == priority:
                own = len(callers.get(caller, ()))
                # They take turns until the caller's own ones have gone.
                before += own + sum(min(len(q), own + 1) for other, q in callers.items() if other != caller)
        return before

    def displaced_by(
        self, caller: str, priority: int, *, can_leave: Callable[[W], bool] = lambda _: True
    ) -> W | None:
        """Who has to make room for a newcomer in a full queue; None when the newcomer has to go.

        It is the newest of the caller who has most in the queue, at the largest priority, unless the newcomer
        himself would then have as many. What cannot leave does not count.
        """
        for last in sorted(self._levels, reverse=True):
            if last < priority:
                return None
            level = {name: list(filter(can_leave, waiting)) for name, waiting in self._levels[last].items()}
            counts = Counter({name: len(waiting) for name, waiting in level.items() if waiting})
            if not counts:
                continue
            greediest, most = counts.most_common(1)[0]
            if last == priority and counts[caller] + 1 >= most:
                return None
            return level[greediest][-1]
        return None
