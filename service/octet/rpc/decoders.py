"""The processes that decode pictures, and who gets one next."""

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from octet.errors import UnavailableError
from octet.pictures.process import DecoderProcess
from octet.rpc.admission.fair_queue import FairQueue
from octet.translate.media import Decode

T = TypeVar("T")

logger = logging.getLogger("octet")


class _Place:
    """Who waits for a process."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.priority = 0
        self.given = asyncio.get_running_loop().create_future()


class Decoders:
    """Processes that decode pictures; they start when they are needed, and stay.

    One caller's requests have at most `per_caller` of them at the same time. There is one more, so that a
    caller whose pictures take long does not have them all.

    Args:
        per_caller: how many pictures of a caller are decoded at the same time.
        seconds: of processor time that one picture may take.
    """

    def __init__(self, per_caller: int, seconds: float) -> None:
        self._per_caller = per_caller
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(per_caller + 1, thread_name_prefix="images")
        self._idle: list[DecoderProcess] = []
        self._busy: set[DecoderProcess] = set()
        self._callers: Counter[str] = Counter()
        self._waiting: FairQueue[_Place] = FairQueue()
        self._closed = False

    async def run(self, caller: str, function: Callable[[Decode], T]) -> T:
        """Calls a function, which decodes pictures, in a thread; its process is stopped if this is cancelled.

        Args:
            caller: whose pictures they are. Callers take turns.
            function: is given what decodes a file; see `octet.pictures.process.DecoderProcess.decode`.

        Raises:
            UnavailableError: no process can be started.
        """
        await self._turn(caller)
        process = None
        try:
            process = self._take()
            decode = partial(process.decode, seconds=self._seconds)
            call = partial(contextvars.copy_context().run, function, decode)
            work = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except BaseException:
            self._leave(caller, process)
            raise
        # The place is free when the thread is, which is soon after the process has been stopped.
        work.add_done_callback(lambda done: self._done(done, caller, process))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            process.kill()
            raise

    def close(self) -> None:
        """Stops all processes. Idempotent."""
        self._closed = True
        for process in self._busy:
            process.kill()
        while self._idle:
            self._idle.pop().close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, caller: str) -> None:
        place = _Place(caller)
        self._waiting.push(place)
        self._give()
        try:
            await place.given
        except asyncio.CancelledError:
            if place.given.cancelled():
                self._waiting.remove(place)
            else:
                self._leave(caller, None)
            raise

    def _give(self) -> None:
        """Gives places to those whose turn it is."""
        while (place := self._waiting.next(self._callers)) is not None:
            # Who comes next has fewest; if that is too many, it is so for all who wait.
            if self._callers.total() > self._per_caller or self._callers[place.caller] >= self._per_caller:
                return
            self._waiting.serve(place)
            self._callers[place.caller] += 1
            place.given.set_result(None)

    def _take(self) -> DecoderProcess:
        if self._closed:
            raise UnavailableError("the server is shutting down")
        try:
            process = self._living() or DecoderProcess()
        except OSError as error:
            logger.error("no process for pictures can be started: %s", error)
            raise UnavailableError("pictures cannot be decoded at the moment; try again") from error
        self._busy.add(process)
        return process

    def _living(self) -> DecoderProcess | None:
        """An idle process that nobody has ended meanwhile."""
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            process.close()
        return None

    def _done(self, work: "asyncio.Future[T]", caller: str, process: DecoderProcess) -> None:
        if not work.cancelled():
            work.exception()  # told to whoever waited, if anybody still does
        self._leave(caller, process)

    def _leave(self, caller: str, process: DecoderProcess | None) -> None:
        if process is not None:
            self._busy.discard(process)
            if process.alive and not self._closed:
                self._idle.append(process)
            else:
                process.close()
        self._callers[caller] -= 1
        self._give()
