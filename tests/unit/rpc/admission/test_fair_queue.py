"""Who goes next, and who makes room."""

from collections import Counter
from dataclasses import dataclass

from octet.rpc.admission.fair_queue import FairQueue


@dataclass(frozen=True)
class Item:
    caller: str
    name: str
    priority: int = 0


def queue_of(*items: Item) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue()
    for item in items:
        queue.push(item)
    return queue


def order(queue: FairQueue[Item], running: Counter[str] | None = None, *, keep: bool = False) -> str:
    """The names in the order in which they are served; with `keep`, what was served goes on running."""
    running = Counter() if running is None else running
    names = []
    while (item := queue.next(running)) is not None:
        queue.serve(item)
        names.append(item.name)
        if keep:
            running[item.caller] += 1
    assert len(queue) == 0
    return "".join(names)


def items(caller: str, names: str, priority: int = 0) -> list[Item]:
    return [Item(caller, name, priority) for name in names]


def test_one_caller_is_served_in_order() -> None:
    assert order(queue_of(*items("", "abcd"))) == "abcd"


def test_callers_take_turns() -> None:
    assert order(queue_of(*items("flood", "abcd"), *items("two", "xy"), Item("one", "1"))) == "ax1bycd"


def test_turns_are_remembered_while_nobody_waits() -> None:
    queue = queue_of(*items("flood", "a"))
    assert order(queue) == "a"
    for item in (*items("flood", "bc"), *items("new", "x")):
        queue.push(item)
    assert order(queue) == "xbc"


def test_who_has_fewest_running_goes_first() -> None:
    queue = queue_of(*items("flood", "abc"), *items("late", "xyz"))
    assert order(queue, Counter(flood=2), keep=True) == "xyazbc"


def test_the_smallest_priority_goes_first_whoever_it_is() -> None:
    queue = queue_of(*items("a", "xy", 1), *items("b", "z", 1), *items("a", "kl", -1), Item("b", "m"))
    assert order(queue, Counter(a=5)) == "klmzxy"


def test_who_leaves_keeps_his_callers_turn() -> None:
    first = Item("a", "1")
    queue = queue_of(first, *items("b", "x"), Item("a", "2"))
    queue.remove(first)
    assert len(queue) == 2
    assert order(queue) == "2x"


def test_the_last_to_leave_leaves_nothing_behind() -> None:
    item = Item("a", "1", 3)
    queue = queue_of(item)
    queue.remove(item)
    assert queue.next({}) is None
    assert queue.ahead_of("a", 9) == 0
    assert queue.displaced_by("b", 0) is None


def test_how_many_go_before_a_newcomer() -> None:
    queue = queue_of(*items("flood", "abcdef"), *items("two", "xy"), *items("first", "!", -1))
    assert queue.ahead_of("new", 0) == 1 + 1 + 1
    assert queue.ahead_of("two", 0) == 1 + 2 + 3
    assert queue.ahead_of("flood", 0) == 1 + 6 + 2
    assert queue.ahead_of("new", -1) == 1
    assert queue.ahead_of("new", -2) == 0
    assert queue.ahead_of("new", 1) == 9


def test_the_newest_of_who_has_most_makes_room() -> None:
    queue = queue_of(*items("flood", "abc"), *items("two", "xy"))
    assert queue.displaced_by("new", 0) == Item("flood", "c")
    assert queue.displaced_by("two", 0) is None  # it would have as many as the other then
    assert queue.displaced_by("flood", 0) is None
    assert queue.displaced_by("new", 1) is None
    assert queue.displaced_by("flood", -1) == Item("flood", "c")


def test_the_largest_priority_makes_room_first() -> None:
    queue = queue_of(*items("flood", "abc"), Item("two", "x", 5))
    assert queue.displaced_by("two", 0) == Item("two", "x", 5)
    assert queue.displaced_by("new", 5) is None


def test_who_cannot_leave_neither_leaves_nor_counts() -> None:
    queue = queue_of(*items("flood", "abc"), *items("two", "xy"))
    newest = queue.displaced_by("new", 0, can_leave=lambda item: item.caller != "flood")
    assert newest is not None
    assert newest.name == "y"
    assert queue.displaced_by("new", 0, can_leave=lambda _: False) is None
    lower = queue_of(*items("flood", "a", priority=5), *items("two", "xyz"))
    behind = lower.displaced_by("new", 0, can_leave=lambda item: item.priority == 0)
    assert behind is not None
    assert behind.name == "z"


def test_some_go_before_their_callers_others() -> None:
    queue = queue_of(*items("flood", "ab"))
    queue.push(Item("flood", "first"), first=True)
    assert order(queue) == "firstab"
