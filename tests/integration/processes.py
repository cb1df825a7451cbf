"""Servers as processes of their own."""

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]


@dataclass
class Process:
    """A server process; its standard error is its log."""

    popen: subprocess.Popen[str]
    target: str = ""
    log: list[str] = field(default_factory=list)

    def wait(self, seconds: float = 10) -> int:
        """Waits for its end and returns the exit status; the log is complete then."""
        _, rest = self.popen.communicate(timeout=seconds)
        self.log += rest.splitlines(keepends=True)
        return self.popen.returncode

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def read_log_until(self, pattern: str) -> re.Match[str]:
        """The match in the first log line that has one.

        Raises:
            EOFError: when the process ends first.
        """
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.log.append(line)
            if match := re.search(pattern, line):
                return match
        raise EOFError("".join(self.log))


@contextmanager
def server_process(
    *arguments: str, serving: bool = True, open_files: int | None = None, log: IO[str] | None = None
) -> Iterator[Process]:
    """A server around a scripted engine, killed at the end if it still runs.

    Args:
        arguments: those of `tests.integration.serve_fake`.
        serving: whether to wait until it serves.
        open_files: how many files and connections it may have open; None: as many as this process may.
        log: where its log goes, which is not read then.
    """
    command = [sys.executable, "-m", "tests.integration.serve_fake", *arguments]
    popen = subprocess.Popen(
        command, cwd=ROOT, stderr=log or subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    if open_files is not None:
        resource.prlimit(popen.pid, resource.RLIMIT_NOFILE, (min(64, open_files), open_files))
    process = Process(popen)
    try:
        if serving:
            process.target = process.read_log_until(r"octet: serving fake on (127\.0\.0\.1:\d+)$")[1]
        yield process
    finally:
        popen.kill()
        popen.wait()
        if popen.stderr is not None:
            popen.stderr.close()
