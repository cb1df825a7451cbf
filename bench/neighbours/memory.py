"""How much memory a server's processes take."""

import contextlib
import threading
from collections import defaultdict

import psutil  # type: ignore[import-untyped]

_SECONDS = 0.1


class Memory:
    """Follows the memory that is a server's processes' own, in a thread, while the context lasts.

    Own is what is resident and not shared. /proc/PID/statm tells it without walking through the pages, which
    would stop the process for as long.
    """

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.peak: dict[str, float] = {}

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def now(self) -> dict[str, float]:
        """MiB by the name of the process; processes of a name together."""
        found: defaultdict[str, float] = defaultdict(float)
        for process in (self._server, *self._server.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                memory = process.memory_info()
                found[_name(process)] += (memory.rss - memory.shared) / 2**20
        return dict(found)

    def _follow(self) -> None:
        while not self._stopped.wait(_SECONDS):
            now = self.now()
            if sum(now.values()) > sum(self.peak.values()):
                self.peak = now


def _name(process: psutil.Process) -> str:
    command: list[str] = process.cmdline()
    if "octet.pictures.worker" in command:
        return "decoders"
    if command and command[0].startswith("VLLM::"):
        return command[0].split()[0]
    return "server" if "serve" in command else "others"
