"""Who is let in, who waits and who is refused, by the numbers; time passes only when the tests say so."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from octet.errors import OverloadedError, Quota
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.pace import MIN_SAMPLES
from octet.rpc.admission.retry import MAX_RETRY_SECONDS, MIN_RETRY_SECONDS
from octet.rpc.admission.ticket import Ticket
from tests.unit.rpc.admission.clock import Clock

LIMITS = Limits(running=2, waiting=3, waiting_tokens=1000, waiting_images=8, token_calls=2)
ONE = Cost()


@dataclass
class Heard:
    """What a listener is told."""

    admitted_after: list[tuple[str, float]] = field(default_factory=list)
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def admitted(self, caller: str, queue_seconds: float) -> None:
        self.admitted_after.append((caller, queue_seconds))

    def refused(self, caller: str, reason: str) -> None:
        self.reasons.append((caller, reason))


class Door:
    """An admission, and everybody who has entered and not left."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.clock = Clock()
        self.admission = Admission(limits, clock=self.clock)
        self.heard = Heard()
        self.admission.subscribe(self.heard)
        self._places: dict[Ticket, ExitStack] = {}

    def enter(
        self,
        caller: str = "",
        cost: Cost = ONE,
        *,
        time_left: float | None = None,
        caller_limit: int | None = None,
    ) -> Ticket:
        place = ExitStack()
        ticket = place.enter_context(
            self.admission.enter(caller, cost, time_left=time_left, caller_limit=caller_limit)
        )
        self._places[ticket] = place
        return ticket

    def leave(self, ticket: Ticket) -> None:
        self._places.pop(ticket).close()

    def leave_all(self) -> None:
        for ticket in list(self._places):
            self.leave(ticket)

    def learn(self, run_seconds: float, first_token_seconds: float = 0.0) -> None:
        """Lets requests run for so long, one after the other, until there is evidence."""
        for _ in range(MIN_SAMPLES):
            ticket = self.enter()
            self.clock.now += first_token_seconds
            self.admission.first_token(ticket)
            self.clock.now += run_seconds - first_token_seconds
            self.leave(ticket)

    @contextmanager
    def refuses(self, reason: str) -> Iterator["pytest.ExceptionInfo[OverloadedError]"]:
        with pytest.raises(OverloadedError) as raised:
            yield raised
        assert raised.value.reason == reason


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    yield door
    door.leave_all()
    load = door.admission.load()
    assert (load.running, load.running_sequences, load.waiting, load.waiting_tokens) == (0, 0, 0, 0)
    assert (load.waiting_images, load.token_calls) == (0, 0)


def runs(ticket: Ticket) -> bool:
    return ticket.started is not None


async def test_what_there_is_room_for_runs_and_the_rest_waits_its_turn(door: Door) -> None:
    first, second, third, fourth = (door.enter() for _ in range(4))
    assert [runs(t) for t in (first, second, third, fourth)] == [True, True, False, False]
    await asyncio.wait_for(first.turn(), 1)
    load = door.admission.load()
    assert (load.running, load.waiting) == (2, 2)
    door.clock.now += 5
    door.leave(second)
    assert runs(third)
    assert not runs(fourth)
    await asyncio.wait_for(third.turn(), 1)
    assert door.heard.admitted_after == [("", 0.0), ("", 0.0), ("", 5.0)]


async def test_more_than_may_wait_are_refused(door: Door) -> None:
    for _ in range(5):
        door.enter()
    with door.refuses("TOO_MANY_WAITING_REQUESTS"):
        door.enter()
    assert door.heard.reasons == [("", "TOO_MANY_WAITING_REQUESTS")]


async def test_candidates_count(door: Door) -> None:
    pair = door.enter(cost=Cost(sequences=2))
    assert runs(pair)
    assert not runs(door.enter())
    assert door.admission.load().running_sequences == 2


async def test_nobody_overtakes_who_needs_more_room(door: Door) -> None:
    first, _second = door.enter("a"), door.enter("a")
    wide, narrow = door.enter("b", Cost(sequences=2)), door.enter("c")
    door.leave(first)
    assert not runs(wide)
    assert not runs(narrow)
    door.leave(_second)
    assert runs(wide)
    assert not runs(narrow)


async def test_who_asks_for_more_than_there_is_runs_alone(door: Door) -> None:
    small = door.enter()
    large = door.enter(cost=Cost(sequences=16))
    assert not runs(large)
    door.leave(small)
    assert runs(large)
    assert not runs(door.enter())


async def test_who_gives_up_leaves_the_queue_at_once(door: Door) -> None:
    running, _ = door.enter(), door.enter()
    gone, next_one = door.enter(cost=Cost(tokens=700, images=3)), door.enter()
    door.leave(gone)
    assert (door.admission.load().waiting, door.admission.load().waiting_tokens) == (1, 0)
    assert door.admission.load().waiting_images == 0
    door.leave(running)
    assert runs(next_one)


async def test_who_gives_up_lets_narrower_ones_pass(door: Door) -> None:
    door.enter("a")
    wide, narrow = door.enter("b", Cost(sequences=2)), door.enter("c")
    assert not runs(narrow)
    door.leave(wide)
    assert runs(narrow)


async def test_waiting_tokens(door: Door) -> None:
    for _ in range(2):
        door.enter(cost=Cost(tokens=900))  # these run at once
    door.enter(cost=Cost(tokens=900))
    with door.refuses("TOO_MANY_WAITING_TOKENS") as raised:
        door.enter(cost=Cost(tokens=101))
    assert "some 900 tokens" in str(raised.value)
    door.enter(cost=Cost(tokens=100))


async def test_a_prompt_above_the_limit_can_wait_alone(door: Door) -> None:
    door.enter()
    door.enter()
    door.enter(cost=Cost(tokens=5000))
    with door.refuses("TOO_MANY_WAITING_TOKENS"):
        door.enter(cost=Cost(tokens=1))


async def test_pictures_are_limited_until_they_are_decoded(door: Door) -> None:
    first = door.enter(cost=Cost(images=6))
    with door.refuses("TOO_MANY_WAITING_IMAGES"):
        door.enter(cost=Cost(images=3))
    door.enter()  # text has room
    door.admission.images_decoded(first)
    door.admission.images_decoded(first)
    door.enter(cost=Cost(images=9))  # alone, it may have more
    with door.refuses("TOO_MANY_WAITING_IMAGES"), door.admission.enter_token_call("", images=1):
        pass


async def test_calls_about_tokens(door: Door) -> None:
    with door.admission.enter_token_call(""):
        with door.admission.enter_token_call("", images=2):
            assert (door.admission.load().token_calls, door.admission.load().waiting_images) == (2, 2)
            with door.refuses("TOO_MANY_TOKEN_CALLS"), door.admission.enter_token_call(""):
                pass
            assert runs(door.enter())
        with door.admission.enter_token_call(""):
            pass


async def test_a_callers_own_limit(door: Door) -> None:
    first = door.enter("a", caller_limit=2)
    door.enter("a", caller_limit=2)
    with door.refuses("KEY_LIMIT_REACHED") as raised:
        door.enter("a", caller_limit=2)
    assert raised.value.quota == Quota("key:a", "2 requests at the same time")
    assert not runs(door.enter("b", caller_limit=2))
    door.leave(first)
    door.enter("a", caller_limit=2)


async def test_a_flood_does_not_hold_up_others(door: Door) -> None:
    flood = [door.enter("flood") for _ in range(5)]
    quiet = door.enter("quiet")
    # The queue was full: the newest of the flood has made room.
    with pytest.raises(OverloadedError, match="had to make room"):
        await asyncio.wait_for(flood[-1].turn(), 1)
    assert door.heard.reasons == [("flood", "TOO_MANY_WAITING_REQUESTS")]
    door.leave(flood[0])
    assert runs(quiet)
    door.leave(flood[1])
    assert [runs(ticket) for ticket in flood] == [True, True, True, False, False]


async def test_priority_goes_first_and_takes_room(door: Door) -> None:
    first, _ = door.enter(), door.enter()
    late = [door.enter(cost=Cost(priority=p)) for p in (1, 5, 0)]
    urgent = door.enter(cost=Cost(priority=-1))
    assert late[1].refusal is not None
    with door.refuses("TOO_MANY_WAITING_REQUESTS"):
        door.enter(cost=Cost(priority=2))
    for expected in (urgent, late[2], late[0]):
        door.leave(first)
        assert runs(expected)
        first = expected


async def test_one_makes_room_only_when_that_is_enough(door: Door) -> None:
    door.enter("flood")
    door.enter("flood")
    waiting = [door.enter("flood", Cost(tokens=300)) for _ in range(3)]
    with door.refuses("TOO_MANY_WAITING_REQUESTS"):
        door.enter("other", Cost(tokens=500))
    assert [ticket.refusal for ticket in waiting] == [None] * 3


async def test_no_deadline_is_refused_without_evidence(door: Door) -> None:
    for _ in range(5):
        door.enter(time_left=0.001)


async def test_a_deadline_behind_the_queue_is_refused_at_once(door: Door) -> None:
    door.learn(run_seconds=10.0)
    for _ in range(3):
        door.enter("a")
    # Two places, 10 s a request: two more starts take 10 s.
    with door.refuses("DEADLINE_UNREACHABLE") as raised:
        door.enter("a", time_left=9.5)
    assert not raised.value.retryable
    assert "expected in 10.0 s" in str(raised.value)
    # Another caller goes before the one who waits, and so does a smaller priority.
    door.enter("b", Cost(priority=-1), time_left=5.5)
    door.enter("a", time_left=20.5)


async def test_a_deadline_before_any_first_token_is_refused_at_once(door: Door) -> None:
    door.learn(run_seconds=3.0, first_token_seconds=2.0)
    with door.refuses("DEADLINE_UNREACHABLE"):
        door.enter(time_left=1.9)
    assert runs(door.enter(time_left=2.1))


async def test_a_turn_that_comes_too_late_goes_to_the_next(door: Door) -> None:
    door.learn(run_seconds=3.0, first_token_seconds=2.0)
    first, _ = door.enter(), door.enter()
    late, next_one = door.enter(time_left=6.0), door.enter()
    door.clock.now += 5.0
    door.leave(first)
    with pytest.raises(OverloadedError) as raised:
        await asyncio.wait_for(late.turn(), 1)
    assert (raised.value.reason, raised.value.retryable) == ("DEADLINE_UNREACHABLE", False)
    assert runs(next_one)


@pytest.mark.parametrize(
    ("run_seconds", "least", "most"),
    [
        (None, 0.75, 1.25),
        # Three wait for two places: 4 s each makes 8 s until a newcomer would start.
        (4.0, 6.0, 10.0),
        (0.001, MIN_RETRY_SECONDS, MIN_RETRY_SECONDS),
        (50.0, MAX_RETRY_SECONDS, MAX_RETRY_SECONDS),
    ],
)
async def test_when_to_come_again(door: Door, run_seconds: float | None, least: float, most: float) -> None:
    if run_seconds is not None:
        door.learn(run_seconds)
    for _ in range(5):
        door.enter()
    delays = set()
    for _ in range(20):
        with pytest.raises(OverloadedError) as raised:
            door.enter()
        assert raised.value.retryable
        delays.add(raised.value.retry_seconds)
    assert least <= min(delays)
    assert max(delays) <= most
    assert len(delays) > 1 or least == most
