"""One machine's share of a model that `octet serve` on another machine serves."""

import contextlib
import logging
import queue
import signal
import socket
import threading
from typing import TYPE_CHECKING, NoReturn

from octet.engine.vllm import startup
from octet.errors import EngineDeadError

if TYPE_CHECKING:
    from octet.engine.vllm.args import EngineSettings

logger = logging.getLogger(__name__)

# A machine that vanished without a word is given up after about a minute.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


def compute(settings: "EngineSettings") -> NoReturn:
    """Runs this machine's ranks, until a signal or their end.

    Raises:
        StartupError: when they cannot be started.
        EngineDeadError: when one of them has ended, or the machine that serves is gone.
        SystemExit: after SIGTERM or SIGINT.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    executor = startup.start_headless(settings)
    address = (settings.engine.master_addr, settings.engine.master_port)
    ends: queue.SimpleQueue[str] = queue.SimpleQueue()
    try:
        executor.register_failure_callback(lambda: ends.put("a rank of this machine has ended"))
        executor.start_worker_monitor()
        threading.Thread(target=_watch, args=(address, ends), name="watch-head", daemon=True).start()
        logger.info("computing for %s", address[0])
        end = ends.get()
    finally:
        executor.shutdown()
    raise EngineDeadError(end)


def _watch(address: tuple[str, int], ends: "queue.SimpleQueue[str]") -> None:
    """Notices when the machine that serves is gone, which idle ranks never do.

    Its first rank listens there for as long as it lives, and says nothing to whoever says nothing.
    """
    with contextlib.suppress(OSError), socket.create_connection(address) as connection:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.recv(1)
    ends.put(f"the machine that serves, {address[0]}, is gone")


def _exit(*_: object) -> NoReturn:
    raise SystemExit
