"""The requests that are being answered, and how to stop them from outside their tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from octet.errors import DeadlineExceededError, DuplicateRequestError, OctetError

P = ParamSpec("P")
T = TypeVar("T")


class CancelledByCallerError(OctetError):
    """CancelChat named the request."""

    reason = "CANCELLED"


class RunningRequest:
    """One request, bound to the task that answers it.

    The task awaits whatever may take long through `wait_for`, and only there can it be stopped: a write to
    the client is never interrupted half-way.
    """

    def __init__(self, task: asyncio.Task[object]) -> None:
        self._task = task
        self._stopped_by: OctetError | None = None
        self._waiting = False

    def stop(self, error: OctetError) -> bool:
        """Makes the current or next `wait_for` raise `error`; False if something else stopped it before."""
        if self._stopped_by is not None:
            return False
        self._stopped_by = error
        if self._waiting:
            self._task.cancel()
        return True

    async def wait_for(self, start: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Awaits `start(*args, **kwargs)`, which is cancelled when the request is stopped.

        Raises:
            OctetError: what `stop` was given.
        """
        self._check()
        self._waiting = True
        try:
            return await start(*args, **kwargs)
        except asyncio.CancelledError:
            # gRPC cancels the task as well, when the client is gone: that one wins.
            if self._stopped_by is not None and self._task.uncancel() == 0:
                raise self._stopped_by from None
            raise
        finally:
            self._waiting = False

    def _check(self) -> None:
        if self._stopped_by is not None:
            raise self._stopped_by


class RunningRequests:
    """All requests that are being answered, by caller and id."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], RunningRequest] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._requests)

    @contextmanager
    def register(self, caller: str, request_id: str, time_left: float | None) -> Iterator[RunningRequest]:
        """Counts the current task's request as running while the context lasts.

        Args:
            caller: whose request it is; ids of different callers do not meet.
            request_id: its id.
            time_left: seconds until its deadline, at which it is stopped; None for no deadline.

        Raises:
            DuplicateRequestError: when the caller's request with this id is still running.
        """
        key = (caller, request_id)
        if key in self._requests:
            raise DuplicateRequestError(f"a request with the id {request_id} is still running")
        task = asyncio.current_task()
        assert task is not None, "requests are registered by the task that answers them"
        running = self._requests[key] = RunningRequest(task)
        self._idle.clear()
        deadline = _stop_at_deadline(running, time_left)
        try:
            yield running
        finally:
            if deadline is not None:
                deadline.cancel()
            del self._requests[key]
            if not self._requests:
                self._idle.set()

    def cancel(self, caller: str, request_ids: Sequence[str]) -> list[str]:
        """Stops those of the caller's requests that are running; returns their ids, each once, in order."""
        error = CancelledByCallerError("the request was cancelled by CancelChat")
        return [
            request_id
            for request_id in dict.fromkeys(request_ids)
            if (running := self._requests.get((caller, request_id))) is not None and running.stop(error)
        ]

    def stop_all(self, error: OctetError) -> None:
        """Stops every request; its caller gets `error`."""
        for running in self._requests.values():
            running.stop(error)

    async def wait_idle(self) -> None:
        """Returns when nothing is running."""
        await self._idle.wait()


def _stop_at_deadline(running: RunningRequest, time_left: float | None) -> asyncio.TimerHandle | None:
    if time_left is None:
        return None
    error = DeadlineExceededError("the deadline passed before the answer was complete")
    return asyncio.get_running_loop().call_later(time_left, running.stop, error)
