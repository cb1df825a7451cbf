"""What strangers could do to grpc.aio itself, and how it is kept from them.

It takes calls in one loop, which ends, and the whole server with it, when a path is not UTF-8. The paths of
methods that the server has never come that way if they are registered, so all are, and all other calls are
answered without a look at their path.
"""

import asyncio
import logging
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]

UNKNOWN_METHOD = "/unknown"
"""What calls of methods that nobody serves are called, whatever their paths are."""

NotSentError: type[Exception] = cygrpc.ExecuteBatchError
"""What gRPC raises when something cannot be sent, mostly because the client is gone."""

# As against what should never have been tried, "Failed grpc_call_start_batch".
_NOT_SENT = 'Failed "execute_batch"'


class AioServer(cygrpc.AioServer):  # type: ignore[misc]
    """gRPC's own server, which no path ends."""

    def __init__(self, loop: Any, thread_pool: Any, handlers: Any, interceptors: Any, *rest: Any) -> None:
        self._registered: set[str] = set()
        self._own_loop = loop
        self._own_interceptors = tuple(interceptors or ())
        self._tasks: set[asyncio.Task[Any]] = set()
        super().__init__(loop, thread_pool, handlers, interceptors, *rest)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Registers the methods of handlers that were not generated, too."""
        super().add_generic_rpc_handlers(handlers)
        for handler in handlers:
            self.add_registered_method_handlers(handler._method_handlers)

    def add_registered_method_handlers(self, handlers: dict[str, Any]) -> None:
        """Registers each method once."""
        new = {path: handler for path, handler in handlers.items() if path not in self._registered}
        self._registered.update(new)
        super().add_registered_method_handlers(new)

    def _make_request_call_future(self, method: bytes | None) -> Any:
        """The next call of a registered method; calls of others are taken and answered apart."""
        if method is not None:
            return super()._make_request_call_future(method)
        return self._start(self._answer_unknown())

    async def _answer_unknown(self) -> None:
        """Answers until the server ends, which raises what gRPC's loop knows."""
        while True:
            state = await self._request_call()
            answer = cygrpc._handle_rpc(
                UNKNOWN_METHOD, _NoMethods(), self._own_interceptors, state, self._own_loop, False
            )
            self._start(cygrpc._schedule_rpc_coro(answer, state, self._own_loop, UNKNOWN_METHOD))

    def _start(self, coroutine: Any) -> asyncio.Task[Any]:
        # The loop itself keeps no task.
        task: asyncio.Task[Any] = self._own_loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _NoMethods:
    def resolve_handler(self, details: Any) -> None:
        """Nobody serves the call."""


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether a line of grpc.aio's is: some would fill the log with tracebacks at any client's will.

    They are of metadata that is not UTF-8, and of what could not be sent because the client was gone. Of the
    latter gRPC knows by itself only where it has been told of the end of the call before.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, NotSentError) and str(error).startswith(_NOT_SENT):
        return False
    return not str(record.msg).startswith("Invalid encoding on")


def mend() -> None:
    """Makes all servers of this process such ones. Idempotent."""
    cygrpc.AioServer = AioServer
    log = logging.getLogger("grpc._cython.cygrpc")
    if _is_worth_a_line not in log.filters:
        log.addFilter(_is_worth_a_line)
