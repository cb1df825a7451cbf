"""Threads that callers share: whoever floods them waits behind himself, and who gives up leaves no gap."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from octet.rpc import call
from octet.rpc.fair_threads import FairThreads


@pytest.fixture
def threads() -> Iterator[FairThreads]:
    made = FairThreads(3, "test")
    yield made
    made.close()


class Gate:
    """Functions that wait in their threads until they are let go, and note who has run."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.ran: list[str] = []

    def wait(self, name: str) -> str:
        self.opened.wait(10)
        self.ran.append(name)
        return call.caller.get()


async def run_as(threads: FairThreads, caller: str, gate: Gate, name: str) -> str:
    call.caller.set(caller)
    return await threads.run(gate.wait, name)


async def test_a_flood_waits_behind_itself(threads: FairThreads) -> None:
    closed, opened = Gate(), Gate()
    opened.opened.set()
    flood = [asyncio.ensure_future(run_as(threads, "a", closed, f"a{i}")) for i in range(20)]
    await asyncio.sleep(0)
    for name in ("b1", "b2"):
        assert await run_as(threads, "b", opened, name) == "b"
    assert closed.ran == []
    closed.opened.set()
    assert await asyncio.gather(*flood) == ["a"] * 20
    assert sorted(closed.ran) == sorted(f"a{i}" for i in range(20))


async def test_who_gives_up(threads: FairThreads) -> None:
    closed, opened = Gate(), Gate()
    opened.opened.set()
    flood = [asyncio.ensure_future(run_as(threads, "a", closed, f"a{i}")) for i in range(4)]
    await asyncio.sleep(0)
    for running_or_waiting in (0, 3):
        flood[running_or_waiting].cancel()
        with pytest.raises(asyncio.CancelledError):
            await flood[running_or_waiting]
    closed.opened.set()
    assert await asyncio.gather(flood[1], flood[2]) == ["a", "a"]
    assert "a3" not in closed.ran
    for name in "xyz":
        assert await run_as(threads, "a", opened, name) == "a"


async def test_errors_come_back(threads: FairThreads) -> None:
    def fail() -> None:
        raise ValueError("failed")

    for _ in range(5):
        with pytest.raises(ValueError, match="failed"):
            await threads.run(fail)
