"""Parts of an answer, of which some are taken late and some never."""

import asyncio
from typing import Any

import pytest

from octet.errors import SlowReaderError
from octet.rpc.writing import Writer

pytestmark = pytest.mark.asyncio

SECONDS = 0.05


class Client:
    """Takes a part when it is told to, as a call's context shows it."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.takes = asyncio.Event()

    async def write(self, message: Any) -> None:
        await self.takes.wait()
        self.taken.append(message)


def writer(client: Any, seconds: float = SECONDS) -> Writer:
    return Writer(seconds, client)


async def test_what_is_taken_in_time_goes_on_for_as_long_as_it_likes() -> None:
    """No part takes the whole time, all of them together take many times as long."""
    client = Client()
    loop = asyncio.get_running_loop()
    async with writer(client, 0.2) as writing:
        for part in range(6):
            client.takes.clear()
            loop.call_later(0.1, client.takes.set)
            await writing.write(part)
    assert client.taken == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("before", [0, 1, 3])
async def test_a_part_that_nobody_takes_ends_the_answer(before: int) -> None:
    client = Client()
    client.takes.set()
    async with writer(client) as writing:
        for part in range(before):
            await writing.write(part)
        client.takes.clear()
        with pytest.raises(SlowReaderError, match=r"taken for 0\.05 seconds"):
            await writing.write("more")
    assert client.taken == list(range(before))
    # The task goes on as one that was never cancelled.
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_the_time_between_parts_is_the_models() -> None:
    client = Client()
    client.takes.set()
    ended = asyncio.Event()
    async with writer(client) as writing:
        await writing.write("one")
        asyncio.get_running_loop().call_later(3 * SECONDS, ended.set)
        await ended.wait()
        await writing.write("two")
    assert client.taken == ["one", "two"]


async def test_whoever_writes_is_the_one_that_is_stopped() -> None:
    """One of several tasks that share a call."""
    client = Client()
    async with writer(client) as writing:
        other = asyncio.create_task(writing.write("part"))
        with pytest.raises(SlowReaderError):
            await other


async def test_a_client_that_is_gone_comes_before_one_that_is_slow() -> None:
    client = Client()
    loop = asyncio.get_running_loop()
    async with writer(client) as writing:
        other = asyncio.create_task(writing.write("part"))
        # In one turn of the loop with the timer: both have stopped the task when it runs.
        await asyncio.sleep(0)
        assert writing._timer is not None
        loop.call_at(writing._timer.when(), other.cancel)
        with pytest.raises(asyncio.CancelledError):
            await other


async def test_nothing_is_left_of_an_answer_that_has_ended() -> None:
    client = Client()
    client.takes.set()
    async with writer(client, 60) as writing:
        await writing.write("part")
        timer = writing._timer
        assert timer is not None
    assert timer.cancelled()
