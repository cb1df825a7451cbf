"""Calls about tokens with pictures: a turn and memory, both or neither; requests need the same memory."""

import asyncio
from contextlib import ExitStack

import pytest

from octet.config.images import ImageMemoryLimits
from octet.errors import OverloadedError
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.listener import Load
from octet.rpc.admission.ticket import Ticket

MEMORY = ImageMemoryLimits(server=100, caller=60, request=60)
LIMITS = Limits(
    running=16, waiting=16, waiting_tokens=1000, waiting_images=64, token_calls=8, image_memory=MEMORY
)


class Guests:
    """Who has entered, by names that begin with their caller's letter: requests, and calls about tokens."""

    def __init__(self) -> None:
        self.door = Admission(LIMITS)
        self.tickets: dict[str, Ticket] = {}
        self._places: dict[str, ExitStack] = {}

    def ask(self, name: str, size: int) -> Ticket:
        """A request whose pictures take `size` bytes."""
        cost = Cost(images=bool(size), image_bytes=size)
        self._places[name] = place = ExitStack()
        self.tickets[name] = place.enter_context(self.door.enter(name[0], cost))
        return self.tickets[name]

    def count(self, name: str, size: int = 0) -> Ticket:
        """A call about tokens whose pictures take `size` bytes."""
        self._places[name] = place = ExitStack()
        self.tickets[name] = place.enter_context(self.door.enter_token_call(name[0], bool(size), size))
        return self.tickets[name]

    def leave(self, *names: str) -> None:
        for name in names:
            self._places.pop(name).close()
            del self.tickets[name]

    @property
    def started(self) -> list[str]:
        return [name for name, ticket in self.tickets.items() if ticket.started is not None]

    def leave_all(self) -> Load:
        self.leave(*self.tickets)
        return self.door.load()


@pytest.fixture
async def guests() -> Guests:
    return Guests()


EMPTY = Load(0, 0, 0, 0, 0, 0, 0, 0)


async def test_who_lacks_memory_keeps_no_turn(guests: Guests) -> None:
    guests.ask("a", 60)
    guests.ask("b", 40)
    for name in ("a1", "a2", "b1", "b2", "c1", "c2"):
        guests.count(name, 30)
    assert guests.started == ["a", "b"]
    # Nor is anybody without pictures behind those, not even of the same caller.
    guests.count("a3")
    guests.count("c3")
    assert guests.started == ["a", "b", "a3", "c3"]
    assert guests.door.load().waiting_image_bytes == 180
    assert guests.leave_all() == EMPTY


async def test_a_callers_own_limit_holds_up_nobody_else(guests: Guests) -> None:
    guests.ask("a", 60)
    guests.count("a1", 10)
    guests.count("b1", 40)
    assert guests.started == ["a", "b1"]
    guests.leave("a")
    assert guests.started == ["a1", "b1"]
    assert guests.leave_all() == EMPTY


async def test_who_has_no_turn_keeps_no_memory(guests: Guests) -> None:
    for name in ("a1", "a2", "b1", "b2", "c1"):
        guests.count(name, 10)
    assert guests.started == ["a1", "a2", "b1"]
    load = guests.door.load()
    assert (load.image_bytes, load.waiting_image_bytes, load.token_calls) == (30, 20, 5)
    guests.leave("a1")
    assert guests.started == ["a2", "b1", "c1"]
    assert guests.leave_all() == EMPTY


async def test_what_waits_for_a_turn_keeps_no_request_from_memory(guests: Guests) -> None:
    for name in ("a1", "a2", "b1"):
        guests.count(name, 20)
    guests.count("b2", 60)
    guests.ask("c", 40)
    assert guests.started == ["a1", "a2", "b1", "c"]
    assert guests.leave_all() == EMPTY


async def test_requests_and_calls_about_tokens_take_turns_at_memory(guests: Guests) -> None:
    guests.ask("a", 60)
    for name in ("b1", "c1", "d1"):
        guests.ask(name, 60)
    for name in ("x", "y", "z"):
        guests.count(name, 60)
    order = []
    (running,) = guests.started
    for _ in range(6):
        guests.leave(running)
        (running,) = guests.started
        order.append(running)
    assert order == ["x", "b1", "y", "c1", "z", "d1"]
    assert guests.leave_all() == EMPTY


@pytest.mark.parametrize("kind", ["request", "call"])
async def test_nobody_of_either_kind_overtakes_who_waits_for_the_servers_memory(
    guests: Guests, kind: str
) -> None:
    guests.ask("a", 60)
    first, second = (guests.ask, guests.count) if kind == "request" else (guests.count, guests.ask)
    guests.ask("b", 20)
    guests.count("e", 1)  # the last to get memory was a call, so that requests go first
    if kind == "call":
        guests.ask("f", 1)
    first("c1", 60)
    second("d1", 5)
    assert "c1" not in guests.started
    assert "d1" not in guests.started
    guests.leave("a")
    assert {"c1", "d1"} <= set(guests.started)
    assert guests.leave_all() == EMPTY


async def test_pictures_from_elsewhere_give_the_turn_back_until_there_is_memory(guests: Guests) -> None:
    guests.ask("a", 60)
    fetched = [guests.count(name) for name in ("a1", "a2")]
    claims = [asyncio.ensure_future(guests.door.take_image_memory(ticket, 50)) for ticket in fetched]
    await asyncio.sleep(0)
    for name in ("b1", "b2", "c1"):
        guests.count(name)
    assert guests.started == ["a", "b1", "b2", "c1"]
    assert guests.door.load().waiting_image_bytes == 100
    guests.leave("a")
    assert not any(claim.done() for claim in claims)
    guests.leave("b1")
    await claims[0]
    assert guests.door.load().image_bytes == 50
    guests.leave("a1", "b2")
    await claims[1]
    assert guests.leave_all() == EMPTY


async def test_who_gives_up_while_it_waits_again_leaves_no_trace(guests: Guests) -> None:
    guests.ask("a", 60)
    claim = asyncio.ensure_future(guests.door.take_image_memory(guests.count("a1"), 50))
    await asyncio.sleep(0)
    claim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claim
    guests.leave("a1")
    assert guests.door.load().waiting_image_bytes == 0
    assert guests.leave_all() == EMPTY


async def test_who_waits_again_makes_room_for_others(guests: Guests) -> None:
    guests.ask("a", 60)
    ticket = guests.count("a1")
    for i in range(2, LIMITS.token_calls + 1):
        guests.count(f"a{i}", 50)
    claim = asyncio.ensure_future(guests.door.take_image_memory(ticket, 50))
    await asyncio.sleep(0)
    guests.count("b1")
    with pytest.raises(OverloadedError) as raised:
        await claim
    assert raised.value.reason == "TOO_MANY_TOKEN_CALLS"
    load = guests.door.load()
    assert (load.token_calls, load.waiting_image_bytes) == (LIMITS.token_calls, 350)
    assert guests.leave_all() == EMPTY


async def test_what_turned_out_to_take_nothing_keeps_its_turn(guests: Guests) -> None:
    guests.ask("a", 60)
    ticket = guests.count("b1", 30)
    await guests.door.take_image_memory(ticket, 0)
    assert ticket.started is not None
    assert guests.door.load().image_bytes == 60
    assert guests.leave_all() == EMPTY
