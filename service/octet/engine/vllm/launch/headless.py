"""One machine's share of a model that `octet serve` on another machine serves."""

import logging
import queue
import signal
from typing import TYPE_CHECKING, NoReturn

from octet.engine.vllm import compat
from octet.engine.vllm.launch import startup
from octet.errors import EngineDeadError

if TYPE_CHECKING:
    from octet.engine.vllm.launch.args import EngineSettings

logger = logging.getLogger(__name__)


def compute(settings: "EngineSettings") -> NoReturn:
    """Runs this machine's ranks, until a signal or their end.

    Raises:
        StartupError: when they cannot be started.
        EngineDeadError: when one of them has ended, or another machine is gone.
        SystemExit: after SIGTERM or SIGINT.
    """
    launch = startup.Launch(settings)

    def stop(*_: object) -> NoReturn:
        # Ranks have nothing to lose, and vLLM would wait for them.
        launch.cancel()
        raise SystemExit

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    end = ""
    try:
        executor = launch.compute()
        ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        executor.register_failure_callback(lambda: ends.put(None))
        executor.start_worker_monitor()
        launch.on_loss(lambda: ends.put(None))
        logger.info("computing for %s", settings.engine.master_addr)
        ends.get()
        end = launch.lost or "a rank of this machine has ended"
    finally:
        launch.close(end)
        compat.await_worker_monitor()
    raise EngineDeadError(end)
