"""What of an unfinished checkpoint is on the disk, so that an interrupted run can go on.

A line is written only after the data that it speaks of has been flushed to the disk. The first one tells what
the run was to make; another source or other options make another checkpoint, and such a journal is not used.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from octet.quantize.errors import QuantizeError, reason_of
from octet.quantize.options import Options
from octet.quantize.plan import Plan
from octet.quantize.source import Source


def fingerprint(source: Source, plan: Plan, options: Options) -> str:
    """Identifies the checkpoint that is to be made: the source's files as they are now, and every layout."""
    digest = hashlib.sha256(f"{options.weights} {options.activations}".encode())
    if source.adapter is not None:
        digest.update(source.adapter.identity().encode())
    for shard in plan.shards:
        digest.update(source.files.identity(shard.source).encode())
        digest.update(shard.start)
    return digest.hexdigest()


class Journal:
    """The journal of one unfinished checkpoint, held by one process at a time.

    Attributes:
        resumed: whether there was work of the same kind to go on with; otherwise what lies there is of no
            use.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """Opens or begins the journal at `path`.

        Raises:
            QuantizeError: another process holds it, or it cannot be written.
        """
        self._path = path
        self._lock = threading.Lock()
        self._done: set[tuple[str, str]] = set()
        self._spoiled: set[tuple[str, str]] = set()
        try:
            self._file: IO[bytes] = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise QuantizeError(f"another octet quantize is at work in {path.parent}") from error
        except OSError as error:
            raise QuantizeError(f"{path} cannot be written: {reason_of(error)}") from error
        try:
            self.resumed = self._read(identity)
            if not self.resumed:
                self._file.truncate(0)
                self._append([{"identity": identity}])
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def has(self, shard: str, tensor: str) -> bool:
        """Whether the tensor's data in the new file `shard` is whole."""
        return (shard, tensor) in self._done

    def record(self, shard: str, tensors: Iterable[str]) -> None:
        """Notes tensors whose data has been flushed to the disk.

        Raises:
            QuantizeError: the journal cannot be written.
        """
        self._append([{"shard": shard, "tensor": tensor} for tensor in tensors])

    @property
    def spoiled(self) -> list[tuple[str, str]]:
        """Files, and in them the tensors that were copied with NaN or an infinity in them."""
        return sorted(self._spoiled)

    def note_spoiled(self, shard: str, tensor: str) -> None:
        """Notes a tensor that was copied with NaN or an infinity in it. Any thread may call it.

        Raises:
            QuantizeError: the journal cannot be written.
        """
        with self._lock:
            if (shard, tensor) in self._spoiled:
                return
            self._spoiled.add((shard, tensor))
        self._append([{"shard": shard, "spoiled": tensor}])

    def _read(self, identity: str) -> bool:
        self._file.seek(0)
        lines = self._file.read().split(b"\n")[:-1]  # A line that was cut off lacks its end.
        try:
            entries = [json.loads(line) for line in lines]
            if not entries or entries[0] != {"identity": identity}:
                return False
            spoiled = [entry for entry in entries[1:] if "spoiled" in entry]
            self._spoiled = {(entry["shard"], entry["spoiled"]) for entry in spoiled}
            done = [entry for entry in entries[1:] if "spoiled" not in entry]
            self._done = {(entry["shard"], entry["tensor"]) for entry in done}
        except (ValueError, KeyError, TypeError):
            return False
        # What follows the last whole line is cut off, so that the next one starts afresh.
        self._file.truncate(sum(len(line) + 1 for line in lines))
        return True

    def _append(self, entries: list[dict[str, str]]) -> None:
        try:
            self._file.write(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise QuantizeError(f"{self._path} cannot be written: {reason_of(error)}") from error
