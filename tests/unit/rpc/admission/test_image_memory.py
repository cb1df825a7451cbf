import asyncio

import pytest

from octet.config.images import ImageMemoryLimits
from octet.errors import OverloadedError
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.ticket import Ticket

MEMORY = ImageMemoryLimits(server=100, caller=60, request=60)


def admission(running: int = 8, waiting: int = 8) -> Admission:
    return Admission(Limits(running, waiting, 1000, 64, 4, MEMORY))


class Guests:
    """Requests that entered, by their names."""

    def __init__(self, door: Admission) -> None:
        self.door = door
        self.tickets: dict[str, Ticket] = {}
        self._contexts: dict[str, object] = {}

    def enter(self, name: str, size: int, *, sequences: int = 1, time_left: float | None = None) -> Ticket:
        """`name` begins with its caller's letter."""
        cost = Cost(sequences=sequences, images=bool(size), image_bytes=size)
        context = self.door.enter(name[0], cost, time_left=time_left)
        self._contexts[name] = context
        self.tickets[name] = context.__enter__()
        return self.tickets[name]

    def leave(self, name: str) -> None:
        self._contexts.pop(name).__exit__(None, None, None)  # type: ignore[attr-defined]

    @property
    def started(self) -> list[str]:
        return [name for name, ticket in self.tickets.items() if ticket.started is not None]


@pytest.fixture
async def guests() -> Guests:
    return Guests(admission())


async def test_memory_is_given_at_the_start_and_comes_back(guests: Guests) -> None:
    guests.enter("a1", 60)
    assert guests.door.load().image_bytes == 60
    guests.enter("b1", 50)
    assert guests.started == ["a1"]
    assert guests.door.load().waiting_image_bytes == 50
    guests.door.hold_image_memory(guests.tickets["a1"], 50)
    assert guests.started == ["a1", "b1"]
    assert (guests.door.load().image_bytes, guests.door.load().waiting_image_bytes) == (100, 0)
    for name in ("a1", "b1"):
        guests.leave(name)
    assert guests.door.load().image_bytes == 0


async def test_text_passes_pictures_that_wait_even_its_own_callers(guests: Guests) -> None:
    guests.enter("a1", 60)
    guests.enter("a2", 60)
    guests.enter("a3", 0)
    guests.enter("b1", 0)
    assert guests.started == ["a1", "a3", "b1"]


async def test_a_caller_at_its_own_limit_holds_up_nobody(guests: Guests) -> None:
    guests.enter("a1", 60)
    guests.enter("a2", 10)
    guests.enter("b1", 40)
    assert guests.started == ["a1", "b1"]


async def test_nobody_overtakes_who_waits_for_the_servers_memory(guests: Guests) -> None:
    guests.enter("a1", 60)
    guests.enter("b1", 60)
    guests.enter("c1", 30)
    assert guests.started == ["a1"]
    guests.leave("a1")
    assert guests.started == ["a1", "b1", "c1"]


async def test_callers_take_turns(guests: Guests) -> None:
    order = []
    guests.enter("a0", 60)
    for name in ("a1", "a2", "b1", "a3", "b2"):
        guests.enter(name, 60)
    running = "a0"
    for _ in range(5):
        before = set(guests.started)
        guests.leave(running)
        (running,) = set(guests.started) - before
        order.append(running)
    assert order == ["b1", "a1", "b2", "a2", "a3"]


async def test_who_leaves_the_queue_frees_the_way(guests: Guests) -> None:
    guests.enter("a1", 60)
    guests.enter("b1", 60)
    guests.enter("c1", 30)
    guests.leave("b1")
    assert guests.started == ["a1", "c1"]
    assert guests.door.load().waiting_image_bytes == 0


async def test_what_waits_for_memory_does_not_hold_a_place_in_the_engine() -> None:
    guests = Guests(admission(running=2))
    guests.enter("a1", 60)
    guests.enter("b1", 60, sequences=2)
    guests.enter("c1", 0)
    assert guests.started == ["a1", "c1"]


async def test_waiting_for_memory_counts_as_waiting() -> None:
    guests = Guests(admission(waiting=1))
    guests.enter("a1", 60)
    guests.enter("b1", 60)
    with pytest.raises(OverloadedError) as raised:
        guests.enter("c1", 60)
    assert raised.value.reason == "TOO_MANY_WAITING_REQUESTS"
    guests.enter("c2", 0)
    assert guests.started == ["a1", "c2"]


async def test_a_flood_makes_room_for_others_in_the_queue() -> None:
    guests = Guests(admission(waiting=2))
    for i in range(3):
        guests.enter(f"a{i}", 60)
    guests.enter("b1", 60)
    with pytest.raises(OverloadedError):
        await guests.tickets["a2"].turn()
    guests.leave("a0")
    assert guests.started == ["a0", "b1"]


async def test_calls_about_tokens_wait_for_memory_and_for_nothing_else() -> None:
    door = admission(running=1)
    with door.enter("a", Cost(image_bytes=60)) as chat, door.enter_token_call("b") as text:
        await text.turn()
        with door.enter_token_call("b", images=1, image_bytes=40) as small:
            await small.turn()
            with door.enter_token_call("c", images=1, image_bytes=40) as large:
                turn = asyncio.ensure_future(large.turn())
                await asyncio.sleep(0)
                assert not turn.done()
                door.hold_image_memory(chat, 0)
                await turn
                assert (door.load().running, door.load().token_calls) == (1, 3)
    assert (door.load().image_bytes, door.load().waiting_images, door.load().token_calls) == (0, 0, 0)


async def test_memory_can_only_shrink(guests: Guests) -> None:
    ticket = guests.enter("a1", 20)
    guests.door.hold_image_memory(ticket, 50)
    assert guests.door.load().image_bytes == 20


async def test_what_was_elsewhere_is_given_memory_when_it_is_known(guests: Guests) -> None:
    ticket = guests.enter("a1", 0)
    await guests.door.take_image_memory(ticket, 60)
    assert guests.door.load().image_bytes == 60
    await guests.door.take_image_memory(ticket, 50)
    assert guests.door.load().image_bytes == 50
    guests.leave("a1")
    assert guests.door.load().image_bytes == 0


async def test_running_requests_take_turns_before_those_that_wait_for_theirs(guests: Guests) -> None:
    guests.enter("a1", 60)
    running = {name: guests.enter(name, 0) for name in ("b1", "b2", "c1")}
    order: list[str] = []

    async def claim(name: str) -> None:
        await guests.door.take_image_memory(running[name], 60)
        order.append(name)

    tasks = [asyncio.ensure_future(claim(name)) for name in running]
    await asyncio.sleep(0)
    guests.enter("d1", 30)
    assert "d1" not in guests.started
    leaving = "a1"
    for expected in ("b1", "c1", "b2"):
        guests.leave(leaving)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order[-1] == expected
        leaving = expected
    assert "d1" in guests.started
    await asyncio.gather(*tasks)


async def test_who_gives_up_waiting_for_memory_leaves_no_trace(guests: Guests) -> None:
    guests.enter("a1", 60)
    ticket = guests.enter("b1", 0)
    task = asyncio.ensure_future(guests.door.take_image_memory(ticket, 60))
    await asyncio.sleep(0)
    guests.enter("c1", 30)
    assert "c1" not in guests.started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "c1" in guests.started
    for name in ("a1", "b1", "c1"):
        guests.leave(name)
    assert guests.door.load().image_bytes == 0
