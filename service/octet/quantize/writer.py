"""Writes a weight file: its header first, then its tensors, piece by piece on several threads."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch

from octet.quantize.errors import QuantizeError, reason_of
from octet.quantize.journal import Journal
from octet.quantize.pieces import Files, Piece, split
from octet.quantize.plan import ShardPlan

UNFINISHED = ".part"
"""Suffix of a file whose data is not whole yet."""

_FLUSH_BYTES = 1 << 30
"""Source bytes after which what was done is flushed to the disk and noted."""

Progress = Callable[[int], None]
"""Told of source bytes that are done."""


def write_shard(
    shard: ShardPlan, directory: Path, journal: Journal, workers: int, progress: Progress
) -> None:
    """Writes the new file of `shard` into `directory`, or the rest of it.

    Raises:
        QuantizeError: a tensor cannot be read, quantized or written.
    """
    finished, unfinished = directory / shard.name, directory / (shard.name + UNFINISHED)
    if finished.exists():
        progress(sum(tensor.source.size for tensor in shard.tensors))
        return
    with (
        _open(shard.source, os.O_RDONLY) as source_fd,
        _open(unfinished, os.O_RDWR | os.O_CREAT) as target_fd,
    ):
        _begin(shard, unfinished, target_fd)
        files = Files(shard.source, unfinished, source_fd, target_fd)
        note = partial(_note, unfinished, target_fd, journal, shard.name)
        _write_tensors(shard, files, journal, workers, progress, note)
        flush(unfinished, target_fd)
    unfinished.rename(finished)


def flush(path: Path, fd: int) -> None:
    """Waits until the file is on the disk; raises QuantizeError when it does not get there."""
    try:
        os.fsync(fd)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be written: {reason_of(error)}") from error


@contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be opened: {reason_of(error)}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _begin(shard: ShardPlan, path: Path, fd: int) -> None:
    try:
        os.ftruncate(fd, shard.header.file_size)
        os.pwrite(fd, shard.start, 0)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be written: {reason_of(error)}") from error


def _note(path: Path, fd: int, journal: Journal, shard: str, whole: list[str]) -> None:
    """Flushes the file, then has the journal say that the tensors `whole` are in it; empties the list."""
    flush(path, fd)
    journal.record(shard, whole)
    whole.clear()


def _write_tensors(
    shard: ShardPlan,
    files: Files,
    journal: Journal,
    workers: int,
    progress: Progress,
    note: Callable[[list[str]], None],
) -> None:
    left: Counter[str] = Counter()
    whole: list[str] = []
    unflushed = 0

    def complete(piece: Piece) -> None:
        nonlocal unflushed
        progress(piece.size)
        name = piece.tensor.source.name
        left[name] -= piece.size
        if left[name] == 0:
            whole.append(name)
        unflushed += piece.size
        if unflushed >= _FLUSH_BYTES:
            note(whole)
            unflushed = 0

    def pieces() -> Iterator[Piece]:
        for tensor in shard.tensors:
            if journal.has(shard.name, tensor.source.name):
                progress(tensor.source.size)
                continue
            left[tensor.source.name] = tensor.source.size
            yield from split(tensor)

    try:
        run_pieces(pieces(), files.process, workers, complete)
    except BaseException:
        with suppress(QuantizeError):  # The first error is the one to report.
            note(whole)
        raise
    note(whole)


def run_pieces(
    pieces: Iterator[Piece],
    work: Callable[[Piece], None],
    workers: int,
    complete: Callable[[Piece], None],
) -> None:
    """Does `work` on every piece, on `workers` threads, and calls `complete` here as pieces get done, in
    order.

    The first error ends it, once the pieces in work are done.
    """
    running: deque[tuple[Piece, Future[None]]] = deque()
    # A thread of its own for each piece, not torch's for all.
    pool = ThreadPoolExecutor(workers, "octet-quantize", torch.set_num_threads, (1,))
    with pool:
        try:
            for piece in pieces:
                running.append((piece, pool.submit(work, piece)))
                while len(running) > 2 * workers:
                    _take(running, complete)
            while running:
                _take(running, complete)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _take(running: deque[tuple[Piece, Future[None]]], complete: Callable[[Piece], None]) -> None:
    piece, future = running.popleft()
    future.result()
    complete(piece)
