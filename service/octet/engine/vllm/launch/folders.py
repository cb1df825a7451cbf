"""Temporary folders that go with the process that made them, at the latest with the next start of another.

A process that is killed leaves its folder behind, and what its engine's processes shared: whatever in
/dev/shm begins with the folder's name is its engine's.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "octet-engine-"
_SHARED_MEMORY = Path("/dev/shm")


def make() -> Path:
    """Makes a folder, and removes those of processes that are gone."""
    _clear()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Another start may have taken it for a dead one's before it was locked.
        if _lock(folder) is not None:
            atexit.register(remove, folder)
            return folder


def _clear() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = _lock(folder)
        if lock is not None:
            remove(folder)
            os.close(lock)


def is_own(folder: Path) -> bool:
    """Whether a folder is one that `make` has made."""
    return folder.name.startswith(_PREFIX)


def remove(folder: Path) -> None:
    """Removes a folder, and what of its engine is left in shared memory."""
    shutil.rmtree(folder, ignore_errors=True)
    # Semaphores have another beginning there.
    for pattern in (f"{folder.name}-*", f"sem.{folder.name}-*"):
        for left in _SHARED_MEMORY.glob(pattern):
            left.unlink(missing_ok=True)


def _lock(folder: Path) -> int | None:
    """Takes the lock on a folder of this user, which ends with its owner; None where it is held."""
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it until now may have removed the folder.
                if folder.is_dir():
                    return lock
        except OSError:
            pass
        os.close(lock)
    return None
