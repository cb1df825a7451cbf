"""The life of a serving process: load, serve until a signal or the engine's death, drain, stop."""

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.server.server import Server

T = TypeVar("T")

logger = logging.getLogger("octet")


class Signals:
    """SIGTERM and SIGINT as events: the first asks to stop gracefully, the second to stop at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __enter__(self) -> "Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def run(config: ServerConfig, start_engine: Callable[[], Engine]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: the server's settings.
        start_engine: loads the model; called in a thread while the port is already open and health says
            NOT_SERVING.

    Raises:
        StartupError: when the port cannot be had, or out of `start_engine`.
        EngineDeadError: when the engine dies.
    """
    server = Server(config)
    await server.start()
    engine = None
    with Signals() as signals:
        try:
            engine = await _unless(signals.first, _in_thread(start_engine))
            if engine is not None:
                await _serve(server, engine, signals, config.host)
        finally:
            await server.stop()
            if engine is not None:
                engine.close()
    logger.info("stopped")


async def _serve(server: Server, engine: Engine, signals: Signals, host: str) -> None:
    await _unless(signals.first, server.attach(engine))
    if not signals.first.is_set():
        logger.info("serving %s on %s:%d", engine.model.names[0], host, server.port)
    death = await _unless(signals.first, server.watch(engine))
    if death is not None:
        raise death
    logger.info("draining; a second signal stops at once")
    await _unless(signals.second, server.drain())


async def _unless(event: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of `work`, which is cancelled, and None, when `event` is set first."""
    task = asyncio.ensure_future(work)
    interrupted = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        interrupted.cancel()


def _in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Runs `function` in a daemon thread, which does not keep the process alive when a signal ends it.

    The thread, and the processes that it starts, do not get SIGINT: Ctrl-C in a terminal goes to all of them,
    and the engine must survive it for the running requests to be drained.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            result = function()
        except BaseException as error:
            loop.call_soon_threadsafe(settle, partial(future.set_exception, error))
        else:
            loop.call_soon_threadsafe(settle, partial(future.set_result, result))

    threading.Thread(target=work, name="engine-start", daemon=True).start()
    return future
