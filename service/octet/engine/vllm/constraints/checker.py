"""Compiles every constraint once before anything else is done for its request, where that hurts nobody."""

import asyncio
import contextlib
import hashlib
import json
import logging
import select
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from octet.engine.vllm.constraints.limits import COMPILE_WALL_SECONDS
from octet.errors import UnavailableError

logger = logging.getLogger("octet")

_KEPT_VERDICTS = 4096
_KEPT_CHARACTERS = 8 * 1024**2

TOO_COSTLY = (
    "takes more time or memory to compile than one request may; make it smaller, and its repetitions shorter"
)


GRAMMAR = "grammar: "
"""What a problem begins with that a grammar's reader found, whose words are for the caller as they are."""

BEGUN = "begun: "
"""What a problem begins with when nothing that a constraint derives begins with what is written already."""

Verdict: TypeAlias = tuple[str, str]
"""What is wrong with a constraint, empty when nothing is; and its form for llguidance."""


class Checker:
    """Finds out what is wrong with constraints, in a process of its own that is replaced when one ends it.

    Constraints are compiled one after the other; what is known about one already is said at once.
    """

    def __init__(self) -> None:
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self._characters = 0
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None
        self._thread = ThreadPoolExecutor(1, "constraints")

    async def check(self, grammar: str) -> Verdict:
        """What is wrong with a constraint that `octet.engine.vllm.constraints.grammars` made.

        Raises:
            UnavailableError: the process cannot be started, as when there are no descriptors left.
        """
        known = self._known(grammar)
        if known is not None:
            return known
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.check_now, grammar)

    def check_now(self, grammar: str) -> Verdict:
        """Does what `check` does, and blocks for as long as it takes."""
        with self._lock:
            if (known := self._known(grammar)) is not None:
                return known
            problem, form = self._verdicts[_key(grammar)] = self._compile(grammar)
            self._characters += len(form)
            while len(self._verdicts) > _KEPT_VERDICTS or self._characters > _KEPT_CHARACTERS:
                _, (_, dropped) = self._verdicts.popitem(last=False)
                self._characters -= len(dropped)
            return problem, form or grammar

    def close(self) -> None:
        """Ends the process. Idempotent."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._stop()

    def _known(self, grammar: str) -> Verdict | None:
        verdict = self._verdicts.get(_key(grammar))
        # Most constraints are in llguidance's form from the beginning.
        return (verdict[0], verdict[1] or grammar) if verdict is not None else None

    def _compile(self, grammar: str) -> Verdict:
        if self._worker is not None and self._worker.poll() is not None:
            # Whatever ended it, it was none of the constraints.
            self._stop()
        try:
            worker = self._worker or self._start()
        except OSError as error:
            logger.error("no process for constraints can be started: %s", error)
            raise UnavailableError("constraints cannot be compiled at the moment; try again") from error
        assert worker.stdin is not None
        assert worker.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(json.dumps(grammar) + "\n")
            worker.stdin.flush()
        ready, _, _ = select.select([worker.stdout], [], [], COMPILE_WALL_SECONDS)
        answer = worker.stdout.readline() if ready else ""
        if not answer:
            self._stop()
            return TOO_COSTLY, ""
        problem, form = json.loads(answer)
        return problem, "" if form == grammar else form

    def _start(self) -> "subprocess.Popen[str]":
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "octet.engine.vllm.constraints.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._worker

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                # What was not written is lost with it.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()  # type: ignore[union-attr]


def _key(grammar: str) -> bytes:
    return hashlib.sha256(grammar.encode()).digest()
