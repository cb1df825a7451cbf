"""Requests with several prompts: they take no more of other callers' shares than as many requests would."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.errors import OverloadedError
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.ticket import Ticket
from tests.unit.rpc.admission.clock import Clock

LIMITS = Limits(running=4, waiting=4, waiting_tokens=1000, waiting_images=8, token_calls=2)
ONE = Cost()


@dataclass
class Batch:
    """A request with several prompts, driven as `octet.rpc.prompts_in_turn` drives it."""

    admission: Admission
    first: Ticket
    left: int
    whole: ExitStack
    places: dict[Ticket, ExitStack] = field(default_factory=dict)

    def step(self) -> None:
        """Lets the next prompt wait when the one before it has had its turn and there is a lane."""
        here = [self.first, *self.places]
        if all(t.started is not None for t in here) and self.left:
            running = sum(not ticket.left for ticket in here)
            if running < self.first.lanes:
                place = ExitStack()
                self.places[place.enter_context(self.admission.enter_next(self.first, ONE))] = place
                self.left -= 1

    def running(self) -> list[Ticket]:
        return [t for t in (self.first, *self.places) if t.started is not None and not t.left]

    def finish(self, ticket: Ticket) -> None:
        if ticket is self.first:
            self.admission.leave(ticket)
        else:
            self.places[ticket].close()

    def close(self) -> None:
        for place in self.places.values():
            place.close()
        self.whole.close()


class Door:
    def __init__(self, limits: Limits = LIMITS) -> None:
        self.admission = Admission(limits, clock=Clock())
        self.stack = ExitStack()

    def batch(self, caller: str, prompts: int, *, caller_limit: int | None = None) -> Batch:
        whole = ExitStack()
        first = whole.enter_context(
            self.admission.enter(caller, ONE, prompts=prompts, caller_limit=caller_limit)
        )
        batch = Batch(self.admission, first, prompts - 1, whole)
        self.stack.callback(batch.close)
        return batch

    def enter(self, caller: str) -> Ticket:
        return self.stack.enter_context(self.admission.enter(caller, ONE))


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.stack.close()
    load = door.admission.load()
    assert (load.running, load.running_sequences, load.waiting, load.waiting_tokens) == (0, 0, 0, 0)


async def test_prompts_run_side_by_side_and_one_waits(door: Door) -> None:
    batch = door.batch("a", 64)
    for _ in range(10):
        batch.step()
    load = door.admission.load()
    assert (load.running, load.waiting) == (4, 1)


async def test_another_caller_is_served_next(door: Door) -> None:
    batch = door.batch("a", 64)
    for _ in range(10):
        batch.step()
    other = door.enter("b")
    assert other.started is None
    batch.finish(batch.first)
    batch.step()
    assert other.started is not None
    assert len(batch.running()) == 3


async def test_what_waits_for_a_request_takes_no_place_of_others(door: Door) -> None:
    """All that may wait can wait, whoever has requests with more to come."""
    batches = [door.batch(caller, 64) for caller in "abcd"]
    for _ in range(10):
        for batch in batches:
            batch.step()
    assert door.admission.load().waiting == 4
    waiting = [door.enter(f"other{i}") for i in range(4)]
    assert all(ticket.refusal is None for ticket in waiting)
    with pytest.raises(OverloadedError):
        door.enter("one too many")


async def test_a_callers_own_newcomer_finds_the_queue_as_long_as_it_is(door: Door) -> None:
    batch = door.batch("a", 64)
    for _ in range(10):
        batch.step()
    for _ in range(3):
        door.enter("a")
    with pytest.raises(OverloadedError):
        door.enter("a")


async def test_who_follows_is_never_displaced(door: Door) -> None:
    batch = door.batch("a", 64)
    for _ in range(10):
        batch.step()
    own = [door.enter("a") for _ in range(3)]
    others = [door.enter("b"), door.enter("c")]
    assert [ticket.refusal is None for ticket in own] == [True, True, False]
    assert all(ticket.refusal is None for ticket in (*batch.places, *others))


async def test_prompts_go_before_later_requests_of_their_caller(door: Door) -> None:
    batch = door.batch("a", 6)
    for _ in range(3):
        batch.step()
    later = door.enter("a")
    for _ in range(2):
        batch.step()
        batch.finish(batch.running()[0])
        batch.step()
        assert later.started is None
    batch.finish(batch.running()[0])
    assert later.started is not None


async def test_lanes_are_what_the_key_has_left(door: Door) -> None:
    door.stack.enter_context(door.admission.enter("a", ONE, caller_limit=3))
    batch = door.batch("a", 64, caller_limit=3)
    assert batch.first.lanes == 2
    with pytest.raises(OverloadedError, match="the key a has 3 requests"):
        door.batch("a", 2, caller_limit=3)


class Witness:
    """Notes whoever was let in while another caller waited who had less."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self.wrongs: list[str] = []

    def admitted(self, caller: str, queue_seconds: float) -> None:
        self.waiting[caller] -= 1
        for other, waits in self.waiting.items():
            if waits and other != caller and self.running[other] < self.running[caller]:
                self.wrongs.append(f"{caller} with {self.running[caller]} before {other}")
        self.running[caller] += 1

    def refused(self, caller: str, reason: str) -> None: ...


@given(st.lists(st.sampled_from(["batch", "one", "step", "end"]), max_size=120), st.integers(1, 5))
async def test_whoever_has_least_goes_next(events: list[str], room: int) -> None:
    """However a request with many prompts and another caller's requests come and end."""
    limits = Limits(running=room, waiting=1000, waiting_tokens=10**6, waiting_images=8, token_calls=2)
    door, witness = Door(limits), Witness()
    door.admission.subscribe(witness)
    batches: list[Batch] = []
    ones: list[Ticket] = []
    for event in events:
        if event == "batch":
            witness.waiting["a"] += 1
            batches.append(door.batch("a", 8))
        elif event == "one":
            witness.waiting["b"] += 1
            ones.append(door.enter("b"))
        elif event == "step":
            for batch in batches:
                before = len(batch.places)
                witness.waiting["a"] += 1
                batch.step()
                witness.waiting["a"] -= len(batch.places) == before
        else:
            running = [("a", batch, ticket) for batch in batches for ticket in batch.running()]
            running += [("b", None, t) for t in ones if t.started is not None and not t.left]  # type: ignore[misc]
            if running:
                caller, _, ticket = running[0]
                witness.running[caller] -= 1
                door.admission.leave(ticket)
    assert witness.wrongs == []
    door.stack.close()
