"""What a server has at a moment, seen from outside: processes, threads, descriptors, files, memory."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

SHARED_MEMORY = "/dev/shm/"

# Processes by what is on their command lines; those that come and go are counted only.
_ROLES = (
    ("octet.pictures.worker", "decoder"),
    ("octet.engine.vllm.constraints.worker", "compiler"),
    ("VLLM::EngineCore", "core"),
    ("VLLM::Worker", "worker"),
    ("forkserver", "fork server"),
    ("resource_tracker", "resource tracker"),
    ("octet-clear", "clearing shell"),
)
PASSING = ("decoder", "compiler")

# What a server that nobody asks has none of.
_BUSY = (
    *("octet_rpc_in_flight", "octet_requests_running", "octet_requests_waiting", "octet_tokens_waiting"),
    *("octet_images_waiting", "octet_image_memory_bytes", "octet_image_memory_waiting_bytes"),
)

IDLE_SECONDS = 60.0


@dataclass
class Snapshot:
    """A server that nobody asks.

    Attributes:
        memory: bytes of the largest process of each role, its share of what it has in common with others.
        processes: how many there are of each role.
        threads: of each role, all processes together.
        descriptors: of each role, by what they are.
        tasks: of the event loop, by what they run.
        shared: names in shared memory that its processes have mapped, or that bear its mark.
        files: in its folder of temporary files.
    """

    memory: dict[str, int] = field(default_factory=dict)
    processes: Counter[str] = field(default_factory=Counter)
    threads: Counter[str] = field(default_factory=Counter)
    descriptors: dict[str, Counter[str]] = field(default_factory=dict)
    tasks: Counter[str] = field(default_factory=Counter)
    shared: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


class Watched:
    """A server's process, its metrics, and where it may leave files.

    Args:
        process: the server, which `tests.soak.serve` runs.
        said: its standard output.
        metrics: the address of its metrics.
        temporary: its folder of temporary files.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", said: Path, metrics: str, temporary: Path) -> None:
        self._process = process
        self._said = said
        self._metrics = metrics
        self._temporary = temporary

    def snapshot(self) -> Snapshot:
        """What it has, once it is idle.

        Raises:
            TimeoutError: it does not become idle; with what it still has to do.
        """
        self.becomes_idle()
        found = Snapshot()
        marks = [folder.name for folder in self._temporary.glob("octet-engine-*")]
        found.shared = {name for name in os.listdir(SHARED_MEMORY) if any(mark in name for mark in marks)}
        found.files = {str(path.relative_to(self._temporary)) for path in _files(self._temporary)}
        found.tasks = self._tasks()
        for process in self.family():
            with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                _look(process, self._role(process), found)
        return found

    def family(self) -> list[psutil.Process]:
        """The server and its processes."""
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    def becomes_idle(self) -> None:
        """Returns when nothing is taken of the server, and nobody is connected.

        Raises:
            TimeoutError: as `snapshot`.
        """
        give_up = time.monotonic() + IDLE_SECONDS
        while busy := self.busy():
            if time.monotonic() > give_up:
                raise TimeoutError(f"still taken after {IDLE_SECONDS:g} s: {busy}")
            time.sleep(0.05)

    def busy(self) -> dict[str, float]:
        """What is taken of it, by the names of its metrics, and how many connections it has."""
        taken: dict[str, float] = {}
        with urllib.request.urlopen(self._metrics, timeout=30) as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                if family.name in _BUSY and (value := sum(sample.value for sample in family.samples)):
                    taken[family.name] = value
        connections = psutil.Process(self._process.pid).net_connections("tcp")
        port = int(re.search(r":(\d+)/", self._metrics)[1])  # type: ignore[index]
        open_ones = [c for c in connections if c.status == psutil.CONN_ESTABLISHED and c.laddr.port != port]
        return taken | ({"connections": len(open_ones)} if open_ones else {})

    def _tasks(self) -> Counter[str]:
        before = self._said.stat().st_size
        self._process.send_signal(signal.SIGUSR1)
        give_up = time.monotonic() + IDLE_SECONDS
        while not (line := self._said.read_bytes()[before:]).endswith(b"\n"):
            if time.monotonic() > give_up:
                raise TimeoutError("the event loop does not answer")
            time.sleep(0.01)
        return Counter(json.loads(line))

    def _role(self, process: psutil.Process) -> str:
        if process.pid == self._process.pid:
            return "server"
        line = " ".join(process.cmdline())
        return next((role for words, role in _ROLES if words in line), line[:60])


def _look(process: psutil.Process, role: str, found: Snapshot) -> None:
    memory = process.memory_full_info().pss
    found.memory[role] = max(found.memory.get(role, 0), memory)
    found.processes[role] += 1
    found.threads[role] += process.num_threads()
    found.descriptors.setdefault(role, Counter()).update(_descriptors(process.pid))
    for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
        if (place := line.find(SHARED_MEMORY)) >= 0:
            found.shared.add(line[place:])


def _descriptors(pid: int) -> Iterator[str]:
    """What a process has open, without what tells one socket from another."""
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            yield re.sub(r"\[\d+\]|\d{3,}", "", os.readlink(entry.path))


def _files(folder: Path) -> Iterator[Path]:
    # Compiled kernels are kept for the next start.
    return (path for path in folder.rglob("*") if path.is_file() and "torchinductor_" not in str(path))
