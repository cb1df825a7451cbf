"""Nothing that an engine has started outlives it, or the process that started it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from octet._lifeline import VARIABLE


def is_effective() -> bool:
    """Whether Python processes of this environment look for a lifeline when they start."""
    return any(os.path.isfile(os.path.join(folder, "octet-lifeline.pth")) for folder in sys.path)


class Lifeline:
    """What the processes of one engine hang on: they are killed when it is cut, or when this process ends."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()

    @contextmanager
    def tied(self) -> Iterator[None]:
        """Ties every Python process that is started inside, and whatever those start at any time."""
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = f"/proc/{os.getpid()}/fd/{self._read_fd}"
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            if before is not None:
                os.environ[VARIABLE] = before

    def pids(self) -> list[int]:
        """The processes that hang on it now."""
        import psutil  # type: ignore[import-untyped]

        pipe = os.readlink(f"/proc/self/fd/{self._read_fd}")
        children = psutil.Process().children(recursive=True)
        return [child.pid for child in children if pipe in _open_files(child.pid)]

    def cut(self) -> None:
        """Kills them at once; those that still come to be tied end by themselves. Idempotent."""
        write_fd, self._write_fd = self._write_fd, -1
        if write_fd >= 0:
            os.close(write_fd)


def _open_files(pid: int) -> set[str]:
    """What the kernel calls the files that a process has open; nothing of one that is gone."""
    files = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                files.add(os.readlink(entry.path))
    return files
