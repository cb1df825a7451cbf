"""Calls about tokens: callers take turns, few are answered at a time, a flood costs its own caller only."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from octet.errors import OverloadedError
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.retry import MAX_RETRY_SECONDS, MIN_RETRY_SECONDS
from octet.rpc.admission.ticket import Ticket
from octet.rpc.admission.token_calls import TOKEN_CALLS_AT_ONCE as AT_ONCE

LIMITS = Limits(running=1, waiting=0, waiting_tokens=0, waiting_images=100, token_calls=12)


class Desk:
    """An admission, and the calls about tokens that have entered and not left."""

    def __init__(self) -> None:
        self.admission = Admission(LIMITS)
        self._places: dict[Ticket, ExitStack] = {}

    def enter(self, caller: str, images: int = 0, limit: int | None = None) -> Ticket:
        place = ExitStack()
        ticket = place.enter_context(self.admission.enter_token_call(caller, images, caller_limit=limit))
        self._places[ticket] = place
        return ticket

    def leave(self, ticket: Ticket) -> None:
        self._places.pop(ticket).close()

    @contextmanager
    def refuses(self, reason: str) -> Iterator[None]:
        with pytest.raises(OverloadedError) as raised:
            yield
        assert raised.value.reason == reason
        assert raised.value.retryable
        assert MIN_RETRY_SECONDS <= raised.value.retry_seconds <= MAX_RETRY_SECONDS


@pytest.fixture
def desk() -> Desk:
    return Desk()


def started(tickets: list[Ticket]) -> list[bool]:
    return [ticket.started is not None for ticket in tickets]


async def test_one_caller_leaves_room_for_another(desk: Desk) -> None:
    flood = [desk.enter("a") for _ in range(6)]
    assert started(flood) == [True] * (AT_ONCE - 1) + [False] * (7 - AT_ONCE)
    other = desk.enter("b")
    assert started([other]) == [True]
    await other.turn()
    # All places are taken; the next that is free goes to the one who has fewest.
    third = desk.enter("c")
    assert started([third]) == [False]
    desk.leave(flood[0])
    assert started([third]) == [True]
    assert started(flood[AT_ONCE - 1 :]) == [False] * (7 - AT_ONCE)


async def test_callers_take_turns(desk: Desk) -> None:
    tickets = [desk.enter(caller) for caller in "aaaaaabbbc"]
    order = []
    running = [ticket for ticket in tickets if ticket.started is not None]
    while running:
        desk.leave(running.pop(0))
        for ticket in tickets:
            if ticket.started is not None and ticket not in running and ticket in desk._places:
                running.append(ticket)
                order.append(ticket.caller)
    # Two of a's and one of b's began at once.
    assert "".join(order) == "cababaa"
    assert desk.admission.load().token_calls == 0


async def test_whoever_has_most_makes_room(desk: Desk) -> None:
    flood = [desk.enter("a") for _ in range(LIMITS.token_calls)]
    with desk.refuses("TOO_MANY_TOKEN_CALLS"):
        desk.enter("a")
    desk.enter("b")
    with desk.refuses("TOO_MANY_TOKEN_CALLS"):
        await flood[-1].turn()
    assert desk.admission.load().token_calls == LIMITS.token_calls
    desk.leave(flood[-1])
    assert desk.admission.load().token_calls == LIMITS.token_calls


async def test_a_callers_own_limit(desk: Desk) -> None:
    first = desk.enter("a", limit=2)
    desk.enter("a", limit=2)
    with desk.refuses("KEY_LIMIT_REACHED"):
        desk.enter("a", limit=2)
    desk.enter("b", limit=2)
    desk.leave(first)
    desk.enter("a", limit=2)


async def test_who_waits_may_leave(desk: Desk) -> None:
    flood = [desk.enter("a", images=1) for _ in range(5)]
    desk.leave(flood[3])
    assert desk.admission.load().waiting_images == 4
    for ticket in (*flood[:3], flood[4]):
        desk.leave(ticket)
    assert flood[3].started is None
    assert (desk.admission.load().token_calls, desk.admission.load().waiting_images) == (0, 0)
    assert started([desk.enter("a")]) == [True]
