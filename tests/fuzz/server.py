"""The server that is fuzzed, as a process, and what can be seen of it from outside."""

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from tests.fuzz.cases import Case
from tests.fuzz.judge import judge
from tests.fuzz.play import Player

ROOT = Path(__file__).parents[2]

START_SECONDS = {"scripted": 120, "demo": 900}
PATIENCE_SECONDS = {"scripted": 30.0, "demo": 120.0}
SETTLE_SECONDS = 15.0
"""How long after the last call its slots may still be taken."""

STOP_SECONDS = 60

WRONG = re.compile(
    r"Traceback \(most recent call last\)|\b(ERROR|CRITICAL)\b|unexpected error|fuzz: STALL|never retrieved"
    r"|was never awaited|Exception ignored|Fatal Python error|Segmentation fault"
)
"""Lines of a server's log that are findings."""
_LINES_BEHIND = 80


class ServerProcess:
    """A server; started by `start`.

    Args:
        kind: "scripted" or "demo".
        faults: whether it has faults that can be asked for.
        patience: seconds after which a call is taken to hang; None: what fits the engine.
    """

    def __init__(self, kind: str, *, faults: bool = False, patience: float | None = None) -> None:
        self.kind = kind
        self._patience = patience or PATIENCE_SECONDS[kind]
        self._faults = faults
        self._log = tempfile.NamedTemporaryFile("w+", prefix="octet-fuzz-", suffix=".log")  # noqa: SIM115
        self._read = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._children: dict[int, psutil.Process] = {}
        self._player: Player | None = None
        self.ended: Counter[str] = Counter()
        """How many calls ended with which status."""

    async def start(self) -> None:
        """Starts it, and returns when it serves.

        Raises:
            RuntimeError: with its log, when it does not.
        """
        command = [sys.executable, "-m", "tests.fuzz.serve", self.kind, *["--faults"] * self._faults]
        self._popen = await asyncio.to_thread(
            subprocess.Popen, command, cwd=ROOT, stderr=self._log, stdout=self._log
        )
        try:
            target = await self._logged(r"octet: serving \S+ on (\S+)", START_SECONDS[self.kind])
        except BaseException:
            self.kill()
            raise
        self._player = Player(target, patience=self._patience)
        self._read = self._size()

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._popen is not None and self._popen.poll() is None

    async def findings(self, case: Case) -> list[str]:
        """Plays a case, and says what was wrong."""
        assert self._player is not None
        outcomes = await self._player.play(case)
        self.ended.update(outcome.code.name if outcome.code else "nothing" for outcome in outcomes)
        found = [
            problem for outcome in outcomes for problem in judge(outcome, constrains=self.kind == "demo")
        ]
        found += await self._not_settled() if self.running else []
        found += self._logged_findings()
        if not self.running:
            assert self._popen is not None
            found.append(f"the server ended with status {self._popen.returncode}: {self._text()[-2000:]}")
        return found

    def memory(self) -> int:
        """Bytes that it and its processes have for themselves."""
        return sum(_memory(process) for process in self._family())

    def processes(self) -> list[str]:
        """What its processes are."""
        lines = []
        for process in self._family():
            with suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()))
        return lines

    async def stop(self) -> list[str]:
        """Ends it as a supervisor does; says what was wrong with that, and at last in its log."""
        if self._player is not None:
            await self._player.close()
        if self._popen is None or not self.running:
            return []
        self._family()
        self._popen.send_signal(signal.SIGTERM)
        found = []
        try:
            status = await asyncio.to_thread(self._popen.wait, STOP_SECONDS)
            if status:
                found.append(f"the server ended with status {status} after SIGTERM: {self._text()[-2000:]}")
        except subprocess.TimeoutExpired:
            found.append(f"the server did not end within {STOP_SECONDS} s of SIGTERM")
        _, alive = await asyncio.to_thread(psutil.wait_procs, list(self._children.values()), 10)
        found += [f"a process outlives the server: {process}" for process in alive]
        found += self._logged_findings()
        self.kill()
        return found

    def kill(self) -> None:
        """Ends it and its processes at once. Idempotent."""
        if self._popen is not None:
            family = self._family()
            self._popen.kill()
            self._popen.wait()
            for process in family:
                with suppress(psutil.Error):
                    process.kill()
        self._log.close()

    def _family(self) -> list[psutil.Process]:
        assert self._popen is not None
        if self._popen.poll() is None:
            own = psutil.Process(self._popen.pid)
            for child in own.children(recursive=True):
                self._children.setdefault(child.pid, child)
            return [own, *own.children(recursive=True)]
        return [child for child in self._children.values() if child.is_running()]

    async def _not_settled(self) -> list[str]:
        """What is still taken when it should not be any more; all that has happened is logged by then."""
        give_up = time.monotonic() + SETTLE_SECONDS
        while (taken := await self._taken()) != "{}":
            if time.monotonic() > give_up:
                return [f"still taken after {SETTLE_SECONDS:g} s: {taken}"]
            await asyncio.sleep(0.02)
        return []

    async def _taken(self) -> str:
        """What is taken of the server now."""
        assert self._popen is not None
        start = self._size()
        self._popen.send_signal(signal.SIGUSR1)
        try:
            return await self._logged(r"fuzz: taken (\{.*\})\n", self._patience, start)
        except RuntimeError:
            return "everything: it does not answer" if self.running else "{}"

    def _size(self) -> int:
        return Path(self._log.name).stat().st_size

    def _text(self, start: int = 0) -> str:
        return self._bytes(start).decode(errors="replace")

    def _bytes(self, start: int) -> bytes:
        with Path(self._log.name).open("rb") as file:
            file.seek(start)
            return file.read()

    def _logged_findings(self) -> list[str]:
        new = self._bytes(self._read)
        self._read += len(new)
        lines = new.decode(errors="replace").splitlines()
        for number, line in enumerate(lines):
            if WRONG.search(line):
                return ["logged:\n" + "\n".join(lines[number : number + _LINES_BEHIND])]
        return []

    async def _logged(self, pattern: str, seconds: float, start: int = 0) -> str:
        """The first group of the first match in what is logged behind `start`."""
        give_up = time.monotonic() + seconds
        while (match := re.search(pattern, self._text(start))) is None:
            if not self.running or time.monotonic() > give_up:
                raise RuntimeError(f"the server does not say {pattern}:\n{self._text()[-4000:]}")
            await asyncio.sleep(0.002 if start else 0.1)
        return match[1]


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0
