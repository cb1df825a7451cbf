"""Writes a weight file: its header first, then its tensors, piece by piece on several threads."""

import functools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

from octet.quantize.errors import QuantizeError, reason_of
from octet.quantize.journal import Journal
from octet.quantize.pieces import Files, Piece, split
from octet.quantize.plan import ShardPlan

UNFINISHED = ".part"
"""Suffix of a file whose data is not whole yet."""

_FLUSH_BYTES = 256 << 20
"""Source bytes after which what was done is flushed to the disk and noted, while more is made."""

Progress = Callable[[int], None]
"""Told of source bytes that are done."""


def write_shards(
    shards: Iterable[ShardPlan],
    directory: Path,
    journal: Journal,
    workers: int,
    progress: Progress,
    inspect: Callable[[ShardPlan], None] | None = None,
) -> None:
    """Writes the new files into `directory`, or what is left of them. The disk gets one while the next is
    made, unless each is inspected.

    Args:
        shards: what is to be made; each one's source has to be there until the next is asked for.
        directory: where to.
        journal: what of them is on the disk.
        workers: threads that quantize and copy.
        progress: told of what is done.
        inspect: called with each shard once its new file is on the disk.

    Raises:
        QuantizeError: a tensor cannot be read, quantized or written.
    """
    with ThreadPoolExecutor(1, "octet-flush") as flusher:
        flushes: list[Future[None]] = []
        for shard in shards:
            finished, unfinished = directory / shard.name, directory / (shard.name + UNFINISHED)
            if finished.exists():
                progress(sum(tensor.source.size for tensor in shard.tensors))
            else:
                with ExitStack() as target, ExitStack() as source:
                    source_fd = _open(source, shard.path, os.O_RDONLY)
                    target_fd = _open(target, unfinished, os.O_RDWR | os.O_CREAT)
                    _begin(shard, unfinished, target_fd)
                    note = _noter(flusher, unfinished, target_fd, journal, shard.name)
                    spoiled = functools.partial(journal.note_spoiled, shard.source)
                    between = Files(shard.path, unfinished, source_fd, target_fd, spoiled)
                    flushes += _write_tensors(shard, between, journal, workers, progress, note)
                    flushes.append(flusher.submit(_finish, target.pop_all(), unfinished, finished))
            if inspect is not None:
                _raise_errors(flushes)
                inspect(shard)
            _raise_errors(flush for flush in flushes if flush.done())
        _raise_errors(flushes)


def flush(path: Path, fd: int) -> None:
    """Waits until the file is on the disk; raises QuantizeError when it does not get there."""
    try:
        os.fsync(fd)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be written: {reason_of(error)}") from error


def _open(files: ExitStack, path: Path, flags: int) -> int:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be opened: {reason_of(error)}") from error
    files.callback(os.close, fd)
    return fd


def _begin(shard: ShardPlan, path: Path, fd: int) -> None:
    try:
        os.ftruncate(fd, shard.header.file_size)
        os.pwrite(fd, shard.start, 0)
    except OSError as error:
        raise QuantizeError(f"{path} cannot be written: {reason_of(error)}") from error


def _note(path: Path, fd: int, journal: Journal, shard: str, whole: list[str]) -> None:
    """Flushes the file, then has the journal say that the tensors `whole` are in it."""
    flush(path, fd)
    journal.record(shard, whole)


def _noter(
    flusher: ThreadPoolExecutor, path: Path, fd: int, journal: Journal, shard: str
) -> Callable[[list[str]], Future[None]]:
    def note(whole: list[str]) -> Future[None]:
        return flusher.submit(_note, path, fd, journal, shard, whole)

    return note


def _finish(files: ExitStack, unfinished: Path, finished: Path) -> None:
    """Gives a file that has been flushed its name."""
    files.close()
    unfinished.rename(finished)


def _raise_errors(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        future.result()


def _write_tensors(
    shard: ShardPlan,
    files: Files,
    journal: Journal,
    workers: int,
    progress: Progress,
    note: Callable[[list[str]], Future[None]],
) -> list[Future[None]]:
    """Writes the tensors that the journal lacks; returns their notes, which are on the way to the disk."""
    left: Counter[str] = Counter()
    whole: list[str] = []
    notes: list[Future[None]] = []
    unflushed = 0

    def complete(piece: Piece) -> None:
        nonlocal unflushed
        progress(piece.size)
        name = piece.tensor.target.name
        left[name] -= piece.size
        if left[name] == 0:
            whole.append(name)
        unflushed += piece.size
        if unflushed >= _FLUSH_BYTES:
            notes.append(note(whole.copy()))
            whole.clear()
            unflushed = 0

    def pieces() -> Iterator[Piece]:
        for tensor in shard.tensors:
            if journal.has(shard.name, tensor.target.name):
                progress(tensor.source.size)
                continue
            left[tensor.target.name] = tensor.source.size
            yield from split(tensor)

    try:
        run_pieces(pieces(), files.process, workers, complete)
    except BaseException:
        wait([*notes, note(whole)])  # The first error is the one to report, not one of these.
        raise
    return [*notes, note(whole)]


def run_pieces(
    pieces: Iterator[Piece],
    work: Callable[[Piece], None],
    workers: int,
    complete: Callable[[Piece], None],
    prepare: Callable[[], object] | None = None,
) -> None:
    """Does `work` on every piece, on `workers` threads that first call `prepare`, and calls `complete` here
    as pieces get done, in order.

    The first error ends it, once the pieces in work are done.
    """
    running: deque[tuple[Piece, Future[None]]] = deque()
    with ThreadPoolExecutor(workers, "octet-quantize", prepare) as pool:
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
