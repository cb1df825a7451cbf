"""Files that are read again when they change: keys and certificates."""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from octet.errors import StartupError

logger = logging.getLogger("octet")

POLL_SECONDS = 1.0
"""How often files are looked at. Notifications would miss changes on network file systems."""

Signature = tuple[tuple[int, ...] | None, ...]


def signature(paths: Sequence[str]) -> Signature:
    """What differs when one of the files has been written or replaced, through symbolic links as well."""
    return tuple(_identity(path) for path in paths)


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass
class Watched:
    """Files that are loaded together.

    Attributes:
        name: what they hold, for the log.
        paths: the files.
        load: reads them and puts what they hold to use; raises StartupError when that is not possible.
        failed: told after each load whether it failed.
        loaded: the files' signature when they were last loaded, or last failed to.
        seen: the signature at the last look.
    """

    name: str
    paths: Sequence[str]
    load: Callable[[], None]
    failed: Callable[[bool], None]
    loaded: Signature
    seen: Signature

    def look(self) -> None:
        """Loads the files when they have changed and were left alone since the last look.

        A writer may replace several files one after the other, or write one in pieces.
        """
        before, self.seen = self.seen, signature(self.paths)
        if self.seen == self.loaded or self.seen != before:
            return
        self.loaded = self.seen
        try:
            self.load()
        except StartupError as error:
            self.failed(True)
            logger.warning("%s stay as they were: %s", self.name, error)
        else:
            self.failed(False)
            logger.info("%s reloaded", self.name)


class Reloader:
    """Loads files, and again whenever they change.

    Args:
        failed: told after each load what was loaded, and whether that failed; in any thread.
    """

    def __init__(self, failed: Callable[[str, bool], None]) -> None:
        self._failed = failed
        self._watched: list[Watched] = []

    def load(self, name: str, paths: Sequence[str], load: Callable[[], None]) -> None:
        """Calls `load` now, and later, in a thread, whenever one of `paths` has changed.

        Args:
            name: what is loaded, in the plural, for the log.
            paths: the files that it comes from.
            load: loads all of it anew; when it raises StartupError later, what was loaded before stays.

        Raises:
            StartupError: out of `load`.
        """
        before = signature(paths)
        load()
        if paths:
            self._failed(name, False)
            self._watched.append(Watched(name, paths, load, partial(self._failed, name), before, before))

    async def run(self) -> None:
        """Looks at the files until it is cancelled. Returns at once where there are none."""
        while self._watched:
            await asyncio.sleep(POLL_SECONDS)
            for watched in self._watched:
                await asyncio.to_thread(watched.look)
