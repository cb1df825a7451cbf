"""Threads for what takes long, in which callers take turns."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from octet.rpc import call
from octet.rpc.admission.turns import Turns

P = ParamSpec("P")
T = TypeVar("T")


class _Job:
    """What waits for a thread."""

    priority = 0

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.started = asyncio.Event()

    def start(self, now: float) -> None:
        """It is its turn."""
        self.started.set()


class FairThreads:
    """Runs functions in threads; a caller who floods them waits behind himself.

    Args:
        count: how many threads; of one caller one less is used, so at least 2.
        name: what the threads are called.
    """

    def __init__(self, count: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._turns: Turns[_Job] = Turns(count)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in a thread, in the context of this call, when it is the caller's turn."""
        job = _Job(call.caller.get())
        self._turns.push(job)
        self._start_next()
        try:
            await job.started.wait()
        except asyncio.CancelledError:
            if job.started.is_set():
                self._leave(job.caller)
            else:
                self._turns.drop(job)
            raise
        in_context = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))
        result: Future[T] = self._threads.submit(in_context)
        loop = asyncio.get_running_loop()
        # Whoever has given up waits no more, but the thread goes on: its place is free when it has ended.
        result.add_done_callback(lambda _: _soon(loop, self._leave, job.caller))
        return await asyncio.wrap_future(result)

    def close(self) -> None:
        """Lets nothing begin any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _leave(self, caller: str) -> None:
        self._turns.leave(caller)
        self._start_next()

    def _start_next(self) -> None:
        self._turns.start_next(asyncio.get_running_loop().time())


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[[str], None], caller: str) -> None:
    """Calls a function on the loop, out of any thread; nobody needs it once the loop has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, caller)
