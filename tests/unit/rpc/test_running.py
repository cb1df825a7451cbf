"""Requests stopped from outside their tasks, at every moment at which that can happen."""

import asyncio

import pytest

from octet.errors import DeadlineExceededError, DuplicateRequestError, UnavailableError
from octet.rpc.running import CancelledByCallerError, RunningRequests


async def test_stop_interrupts_the_wait() -> None:
    requests = RunningRequests()
    never = asyncio.Event()

    async def answer() -> None:
        with requests.register("", "r1", None) as running:
            await running.wait_for(never.wait)

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    requests.stop_all(UnavailableError("gone"))
    with pytest.raises(UnavailableError, match="gone"):
        await task
    assert len(requests) == 0


async def test_stop_outside_of_a_wait_takes_effect_at_the_next() -> None:
    requests = RunningRequests()
    written = []
    with requests.register("", "r1", None) as running:
        assert requests.cancel("", ["r1"]) == ["r1"]
        await asyncio.sleep(0)
        written.append("whole")  # a write is not interrupted
        with pytest.raises(CancelledByCallerError):
            await running.wait_for(asyncio.sleep, 10)
    assert written == ["whole"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_stop_when_the_result_is_there_already() -> None:
    """The task was woken by its result, but has not run yet, when it is stopped."""
    requests = RunningRequests()
    event = asyncio.Event()

    async def answer() -> None:
        with requests.register("", "r1", None) as running:
            await running.wait_for(event.wait)

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    event.set()
    requests.stop_all(UnavailableError("gone"))
    with pytest.raises(UnavailableError):
        await task
    assert task.cancelling() == 0


async def test_a_client_that_is_gone_wins() -> None:
    requests = RunningRequests()

    async def answer() -> None:
        with requests.register("", "r1", None) as running:
            await running.wait_for(asyncio.sleep, 10)

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    requests.cancel("", ["r1"])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(requests) == 0


async def test_deadline() -> None:
    requests = RunningRequests()
    with (
        requests.register("", "r1", 0.01) as running,
        pytest.raises(DeadlineExceededError),
    ):
        await running.wait_for(asyncio.sleep, 10)


async def test_deadline_ends_with_the_request() -> None:
    requests = RunningRequests()
    with requests.register("", "r1", 0.01) as running:
        assert await running.wait_for(asyncio.sleep, 0, "done") == "done"
    with requests.register("", "r1", None) as running:
        assert await running.wait_for(asyncio.sleep, 0.05, "done") == "done"


async def test_callers_do_not_meet() -> None:
    requests = RunningRequests()
    with requests.register("a", "r1", None), requests.register("b", "r1", None):
        with pytest.raises(DuplicateRequestError, match="r1"), requests.register("a", "r1", None):
            pass
        assert requests.cancel("c", ["r1"]) == []
        assert requests.cancel("a", ["r1", "r1", "other"]) == ["r1"]
        assert requests.cancel("a", ["r1"]) == []
        assert requests.cancel("b", ["r1"]) == ["r1"]


async def test_wait_idle() -> None:
    requests = RunningRequests()
    await requests.wait_idle()
    with requests.register("", "r1", None):
        idle = asyncio.create_task(requests.wait_idle())
        with requests.register("", "r2", None):
            pass
        await asyncio.sleep(0)
        assert not idle.done()
    await asyncio.wait_for(idle, 1)


async def test_errors_of_the_awaited_pass() -> None:
    async def fail() -> None:
        raise ValueError("wrong")

    with RunningRequests().register("", "r1", None) as running, pytest.raises(ValueError, match="wrong"):
        await running.wait_for(fail)
