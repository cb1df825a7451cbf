"""The other machines that serve the same model, as seen by the process that starts this machine's engine."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from octet.engine.vllm.launch.hosts.addresses import Addresses
from octet.engine.vllm.launch.hosts.settings import common_settings
from octet.engine.vllm.launch.orphans import Lifeline
from octet.errors import StartupError

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

logger = logging.getLogger(__name__)

# Without the working directory in the path: a module that lies there must not take the place of another.
_PROGRAM = (sys.executable, "-P", "-m", "octet.engine.vllm.launch.hosts.link")


class Hosts:
    """The machines that have met; made by `meet`.

    Attributes:
        lost: why they cannot go on together, once that is so.
    """

    def __init__(self, link: "subprocess.Popen[str]") -> None:
        self._link = link
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], object]] = []
        self._closed = False
        self._over = threading.Event()
        self.lost: str | None = None
        threading.Thread(target=self._follow, name="hosts", daemon=True).start()

    def on_loss(self, listener: Callable[[], object]) -> None:
        """Has `listener` called, from another thread, when a machine is lost, or was."""
        with self._lock:
            if self.lost is None:
                self._listeners.append(listener)
                return
        listener()

    def await_loss(self, seconds: float) -> None:
        """Returns when a machine is lost, or after so many seconds."""
        self._over.wait(seconds)

    def vouch_for(self, pids: Iterable[int]) -> None:
        """Names the processes that have to run, beside this one, for this machine to be there."""
        self._say({"pids": list(pids)})

    def close(self, reason: str = "") -> None:
        """Leaves the others, who are told the reason. Idempotent."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        self._say({"end": reason})
        _end(self._link)

    def _say(self, message: dict[str, Any]) -> None:
        # It may be gone, which `_follow` notices.
        with contextlib.suppress(OSError, ValueError):
            assert self._link.stdin is not None
            self._link.stdin.write(json.dumps(message) + "\n")
            self._link.stdin.flush()

    def _follow(self) -> None:
        """Waits for what the link has to say, which is that all is over."""
        assert self._link.stdout is not None
        with self._link.stdout as said:
            line = said.readline()
        with self._lock:
            if self._closed:
                return
            self.lost = json.loads(line)["lost"] if line else "the link to the other machines has broken"
            listeners = list(self._listeners)
        self._over.set()
        for listener in listeners:
            listener()


def meet(engine: "AsyncEngineArgs", addresses: Addresses, timeout: float, lifeline: Lifeline) -> Hosts:
    """Waits for the other machines, and agrees with them on what has to be the same.

    Blocks.

    Args:
        engine: vLLM's arguments.
        addresses: this machine's and the first one's.
        timeout: seconds to wait at most.
        lifeline: what the process hangs on that does the waiting; to cut it ends that.

    Raises:
        StartupError: when they do not come, differ, or do not reach each other.
    """
    task = {
        "rank": engine.node_rank,
        "hosts": engine.nnodes,
        "master": (addresses.master, engine.master_port),
        "address": addresses.own,
        "settings": common_settings(engine),
        "timeout": timeout,
    }
    logger.info(
        "machine %d of %d, %s (%s): waiting for the others up to %g s",
        *(engine.node_rank, engine.nnodes, addresses.own, addresses.interface, timeout),
    )
    with lifeline.tied():
        link = subprocess.Popen(
            _PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
        )
    assert link.stdin is not None
    assert link.stdout is not None
    try:
        link.stdin.write(json.dumps(task) + "\n")
        link.stdin.flush()
        line = link.stdout.readline()
        said = json.loads(line) if line else {"lost": "interrupted while waiting for the other machines"}
        if "lost" in said:
            raise StartupError(said["lost"])
    except BaseException:
        _end(link)
        raise
    logger.info("all %d machines have met", engine.nnodes)
    return Hosts(link)


def _environment() -> dict[str, str]:
    """Nothing that makes an interpreter load more than the program."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def _end(link: "subprocess.Popen[str]") -> None:
    """Lets the link say what it has to, and end."""
    with contextlib.suppress(OSError):
        assert link.stdin is not None
        link.stdin.close()
    try:
        link.wait(5)
    except subprocess.TimeoutExpired:
        link.kill()
        link.wait()
