"""Writing to clients that may not read."""

import asyncio
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc

from octet.errors import SlowReaderError

# Quoted: the class takes type arguments in its stub only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Writer:
    """Writes an answer, part by part, to a client that has to take each of them in time.

    One timer looks after all of an answer's parts: one for each would cost a tenth of what a token costs. It
    ends with the context. One part is written at a time, by whichever task.

    Args:
        seconds: how long a part may be left untaken.
        context: the call.
    """

    def __init__(self, seconds: float, context: Context) -> None:
        self._seconds = seconds
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # Of the part that is being written.
        self._task: asyncio.Task[Any] | None = None
        self._begun = 0.0
        self._untaken = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def write(self, message: Any) -> None:
        """Writes `message` and returns when the transport has room again.

        Raises:
            SlowReaderError: when that takes longer; all that the answer holds is to be let go then.
        """
        task = self._task = asyncio.current_task()
        self._begun = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            # gRPC cancels the task as well, when the client is gone: that one wins.
            if self._untaken and task is not None and task.uncancel() == 0:
                raise SlowReaderError(
                    f"nothing of the answer was taken for {self._seconds:g} seconds"
                ) from None
            raise
        finally:
            self._task = None

    def _look(self) -> None:
        """Stops the part that is being written if its time is over; comes again when it will be."""
        self._timer = None
        if self._task is None:
            return
        left = self._begun + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._untaken = True
            self._task.cancel()
