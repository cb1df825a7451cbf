"""Temporary folders that go with the process that made them, whatever ends it.

A process that is killed leaves its folder behind, and what its engine's processes shared: whatever in
/dev/shm begins with the folder's name is its engine's. A shell that waits for its end removes both; where
that was killed as well, or there is none, the next start of another process does.
"""

import atexit
import contextlib
import errno
import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from octet.errors import StartupError

_PREFIX = "octet-engine-"
_SHARED_MEMORY = Path("/dev/shm")
_PAGE = bytes(4096)

# Takes folders, a line each, until the process that names them is gone, and removes what it has left.
_CLEARING = f"""
trap '' HUP INT TERM
while IFS= read -r folder; do set -- "$@" "$folder"; done
for folder; do
  name=${{folder##*/}}
  rm -rf -- "$folder" {_SHARED_MEMORY}/"$name"-* {_SHARED_MEMORY}/sem."$name"-*
done
"""


def require_room() -> None:
    """Looks whether there is a place for temporary files, which much of what vLLM imports needs.

    Raises:
        StartupError: there is none.
    """
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            if file.write(_PAGE) < len(_PAGE):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        places = os.environ.get("TMPDIR") or "/tmp, /var/tmp"
        raise StartupError(
            f"no temporary files can be written ({places}): {error.strerror or error}; set TMPDIR to a "
            "folder on a disk with room"
        ) from error


def make() -> Path:
    """Makes a folder, and removes those of processes that are gone.

    Raises:
        StartupError: as `require_room` does.
    """
    require_room()
    _clear()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Another start may have taken it for a dead one's before it was locked.
        if _lock(folder) is not None:
            atexit.register(remove, folder)
            _clear_behind(folder)
            return folder


def _clear_behind(folder: Path) -> None:
    """Has a folder removed when this process is gone."""
    if (shell := _shell()) is not None:
        with contextlib.suppress(OSError):
            os.write(shell, f"{folder}\n".encode())


@functools.cache
def _shell() -> int | None:
    """What tells folders to a shell that removes them behind this process; None where there is no shell.

    Signals that are sent to all processes do not end it.
    """
    folders, tell = os.pipe()
    try:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _CLEARING, "octet-clear"],
            stdin=folders,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        os.close(tell)
        return None
    finally:
        os.close(folders)
    # Nobody waits for it: it ends after this process.
    shell.returncode = 0
    return tell


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
