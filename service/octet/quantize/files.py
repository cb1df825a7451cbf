"""Where the weights of a checkpoint are read from."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol

from octet.quantize.safetensors_file import Header, read_header

Phase = Callable[[str, int], Callable[[int], None]]
"""Begins a phase, by its name and its length in bytes; returns what is to be told of bytes that are done."""


class WeightFiles(Protocol):
    """The weight files of a checkpoint."""

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in order."""

    def header(self, name: str) -> Header:
        """What a file holds, and where in it.

        Raises:
            QuantizeError: it is not there, or damaged.
        """

    def path(self, name: str) -> Path:
        """Where a file lies while it is its turn."""

    def identity(self, name: str) -> str:
        """What tells a file from another one, and from itself once it is changed."""

    def room(self) -> int:
        """Bytes that they take on this machine's disk while they are read."""

    def arriving(self, names: Sequence[str], phase: Phase) -> Generator[Path, None, None]:
        """These files in turn, each there until the next one is asked for.

        Args:
            names: of the files.
            phase: shows what it takes to get them.

        Raises:
            QuantizeError: one cannot be had.
        """


class LocalFiles:
    """Weight files in a directory: safetensors'.

    Attributes:
        names: their names, in order.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self._directory = directory
        self.names = tuple(names)

    def header(self, name: str) -> Header:
        """What a file's header says."""
        return read_header(self.path(name))

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self._directory / name

    def identity(self, name: str) -> str:
        """Its path, length and time of change."""
        status = self.path(name).stat()
        return f"{self.path(name).resolve()} {status.st_size} {status.st_mtime_ns}"

    def room(self) -> int:
        """None: they are there already."""
        return 0

    def arriving(self, names: Sequence[str], phase: Phase) -> Generator[Path, None, None]:
        """All of them are there."""
        yield from map(self.path, names)
