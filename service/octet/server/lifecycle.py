"""The life of a serving process: load, serve until a signal or the engine's death, drain, stop."""

import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, TypeVar

from octet import heap
from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.server.server import Server

if TYPE_CHECKING:
    from octet.rpc.vllm_engine import CreateServicer

T = TypeVar("T")

SWITCH_SECONDS = 0.001
"""How long a thread that computes may keep the event loop from the interpreter; 5 ms by default.

While two threads looked at large requests, the loop was 157 ms late at the 99th percentile with 5 ms, and 31
ms with this. Where nothing else computes it changes nothing.
"""

logger = logging.getLogger("octet")

# The beginning of the tracker's messages, as an interpreter's option -W.
_NO_TRACKER_WARNINGS = "ignore:resource_tracker"


class Signals:
    """SIGTERM and SIGINT as events: the first asks to stop gracefully, the second to stop at once.

    Attributes:
        first: the first one has come.
        second: so has the second.
        terminated: whether the first was SIGTERM, which is what supervisors send, and not Ctrl-C.
    """

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.terminated = False

    def __enter__(self) -> "Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _received(self, number: int) -> None:
        if not self.first.is_set():
            self.terminated = number == signal.SIGTERM
        (self.second if self.first.is_set() else self.first).set()


async def run(
    config: ServerConfig,
    start_engine: Callable[[], Awaitable[Engine]],
    create_servicer: "CreateServicer | None" = None,
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: the server's settings.
        start_engine: loads the model; awaited while the port is already open and health says NOT_SERVING.
        create_servicer: makes what answers SMG gateways over the engine, with config.smg.

    Raises:
        StartupError: when the port cannot be had, or out of `start_engine`.
        EngineDeadError: when the engine dies.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    heap.return_large_blocks()
    _leave_sigint_to_the_main_thread()
    _allow_open_files()
    server = Server(config, create_servicer=create_servicer)
    await server.start()
    engine = None
    with Signals() as signals:
        try:
            engine = await _unless(signals.first, start_engine())
            if engine is not None:
                await asyncio.to_thread(heap.settle)
                await _serve(server, engine, signals)
        finally:
            await server.stop()
            if engine is not None:
                _close(engine, at_once=signals.second.is_set())
            _leave_threads_behind()
    logger.info("stopped")


async def _serve(server: Server, engine: Engine, signals: Signals) -> None:
    await _unless(signals.first, server.attach(engine))
    served = not signals.first.is_set()
    if served:
        logger.info("serving %s on %s", engine.model.names[0], server.addresses)
    death = await _unless(signals.first, server.watch(engine))
    if death is None:
        leaving = _leave(server, grace=served and signals.terminated)
        death = await _unless(signals.second, _first(server.watch(engine), leaving))
    if death is not None:
        raise death


async def _leave(server: Server, *, grace: bool) -> None:
    """Takes leave of the balancers, where there is a grace, and of those who are being answered."""
    if grace:
        logger.info("saying NOT_SERVING, still taking calls; a second signal stops at once")
        await server.retire()
    logger.info("draining; a second signal stops at once")
    await server.drain()


def _close(engine: Engine, *, at_once: bool) -> None:
    """Closes the engine, which keeps the event loop waiting; a signal ends that wait."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: engine.kill())
    if at_once:
        engine.kill()
    engine.close()


def _leave_threads_behind() -> None:
    """Keeps asyncio from waiting for what threads still do, such as importing vLLM for nobody."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())


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


async def _first(*works: Awaitable[T]) -> T:
    """The result of whichever ends first; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()


def _allow_open_files() -> None:
    """Lets the process hold as many connections as the system permits; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_sigint_to_the_main_thread() -> None:
    """Keeps Ctrl-C, which a terminal sends to all processes, from those that the engine starts.

    They inherit the mask of the thread that starts them; they must survive the signal for running requests
    to be drained.
    """
    # Starting it unblocks SIGINT in the thread that does so; it must not be one of the executor's.
    _start_resource_tracker()
    executor = ThreadPoolExecutor(
        thread_name_prefix="worker",
        initializer=signal.pthread_sigmask,
        initargs=(signal.SIG_BLOCK, {signal.SIGINT}),
    )
    asyncio.get_running_loop().set_default_executor(executor)


def _start_resource_tracker() -> None:
    """Starts the process that frees what others have left behind, and keeps it from telling about it.

    It would do so after this process has said why it ends, when that is the engine's death.
    """
    sys.warnoptions.append(_NO_TRACKER_WARNINGS)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_NO_TRACKER_WARNINGS)
