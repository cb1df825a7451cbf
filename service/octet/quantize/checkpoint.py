"""Quantizes a checkpoint: from its files to a directory that is there whole, or not at all.

Work goes on beside the destination, in a hidden directory of the same file system: ``checkpoint/`` fills up
and is renamed when it is complete; the journal beside it lets an interrupted run go on.
"""

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from octet.quantize import companions
from octet.quantize.card import CARD, model_card
from octet.quantize.checked import checked_plan
from octet.quantize.companions import Companions
from octet.quantize.config import model_config
from octet.quantize.errors import QuantizeError, UnusableWeightError, reason_of, saying
from octet.quantize.files import Phase
from octet.quantize.journal import Journal, fingerprint
from octet.quantize.options import Options
from octet.quantize.plan import Plan, ShardPlan
from octet.quantize.source import CONFIG, PICKLED_INDEX, Source
from octet.quantize.writer import UNFINISHED, write_shards
from octet.sizes import in_words
from octet.weight_index import INDEX, read_json

if TYPE_CHECKING:
    from octet.quantize.verify import TensorError

# Files that are made anew.
_WRITTEN = (CONFIG, INDEX, CARD)


@dataclass(frozen=True, slots=True)
class Result:
    """What was made.

    Attributes:
        directory: where it is.
        quantized: number of tensors that were quantized.
        source_bytes: length of the source's weight files.
        bytes: length of the new ones.
        errors: of each quantized tensor; None when they were not measured.
        warnings: what is not as it should be, in the source or in what was made of it; one line each.
    """

    directory: Path
    quantized: int
    source_bytes: int
    bytes: int
    errors: "list[TensorError] | None"
    warnings: tuple[str, ...]


def quantize_checkpoint(source: Source, destination: Path, options: Options, phase: Phase) -> Result:
    """Writes the quantized checkpoint of `source` to `destination`; the source is only read.

    An interrupted run leaves its work beside the destination, and the same call goes on with it.

    Args:
        source: what to quantize.
        destination: a directory that is not there yet, or empty.
        options: how.
        phase: shows progress.

    Raises:
        QuantizeError: it cannot be done. What was done so far is kept where a later run could go on with it.
    """
    destination = Path(os.path.abspath(destination))
    _check_destination(source, destination)
    plan = checked_plan(source, options)
    along = companions.find(source.directory)
    work = work_directory(destination)
    try:
        work.mkdir(parents=True, exist_ok=True)
        identity = fingerprint(source, plan, options)
        with Journal(work / "journal", identity) as journal, _telling_what_is_left(work):
            directory = _prepare(work, source, plan, journal)
            errors = _write_weights(source, plan, directory, journal, options, phase)
            _write_rest(source, plan, options, directory, along, errors)
            warnings = _warnings(source, along, journal, options, errors)
            _sync_directory(directory)
            directory.rename(destination)
            _sync_directory(destination.parent)
        shutil.rmtree(work)
    except UnusableWeightError:
        shutil.rmtree(work)
        raise
    except OSError as error:
        raise QuantizeError(_words(error)) from error
    tensors = [tensor for shard in plan.shards for tensor in shard.tensors]
    return Result(
        directory=destination,
        quantized=sum(tensor.scale is not None for tensor in tensors),
        source_bytes=sum(source.files.header(shard.source).file_size for shard in plan.shards),
        bytes=sum(shard.header.file_size for shard in plan.shards),
        errors=errors,
        warnings=warnings,
    )


@contextmanager
def _telling_what_is_left(work: Path) -> Iterator[None]:
    """Has errors say what they leave in the hidden directory `work`, if anything."""
    try:
        yield
    except UnusableWeightError:
        raise  # of which nothing is left
    except (QuantizeError, OSError) as error:
        rest = f"; {words_of_rest(work)}" if work.exists() else ""
        words = _words(error) if isinstance(error, OSError) else str(error)
        raise QuantizeError(f"{words}{rest}") from error


def _words(error: OSError) -> str:
    return f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)


def words_of_rest(work: Path) -> str:
    """How to go on with what lies in the work directory `work`, or to be rid of it."""
    return f"what is done so far lies in {work}: the same command goes on with it, or remove it"


def work_directory(destination: Path) -> Path:
    """Where work on a checkpoint goes on until it is whole, beside it."""
    destination = Path(os.path.abspath(destination))
    return destination.with_name(f".{destination.name}.octet-quantize")


def downloads(work: Path) -> Path:
    """Where in a work directory the files of a streamed source lie, each as long as it is needed."""
    return work / "source"


def _check_destination(source: Source, destination: Path) -> None:
    directory = source.directory.resolve()
    resolved = destination.resolve()
    if resolved == directory or directory in resolved.parents or resolved in directory.parents:
        raise QuantizeError(f"{destination} and the source {directory} are one inside the other")
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise QuantizeError(f"{destination} is there already, and is no directory")
    if destination.exists() and any(destination.iterdir()):
        raise QuantizeError(f"{destination} is there already, and not empty")


def _prepare(work: Path, source: Source, plan: Plan, journal: Journal) -> Path:
    """The directory to fill: that of the run that is continued, or a new one. Checks the room on the disk."""
    directory = work / "checkpoint"
    if not journal.resumed:
        for left in (directory, downloads(work)):
            if left.exists():
                shutil.rmtree(left)
    directory.mkdir(exist_ok=True)
    files = [directory / shard.name for shard in plan.shards]
    files += [path.with_name(path.name + UNFINISHED) for path in files]
    there = sum(path.stat().st_blocks * 512 for path in files if path.exists())
    needed = sum(shard.header.file_size for shard in plan.shards) - there + source.files.room()
    free = shutil.disk_usage(directory).free
    if needed > free:
        if not journal.resumed:
            shutil.rmtree(work)
        raise QuantizeError(
            f"{work.parent} has {in_words(free)} of free space, and the quantized weights take "
            f"{in_words(needed)}"
        )
    return directory


def _write_weights(
    source: Source, plan: Plan, directory: Path, journal: Journal, options: Options, phase: Phase
) -> "list[TensorError] | None":
    """Writes the new weight files; returns the quantized tensors' errors where they are to be measured."""
    errors: list[TensorError] = []
    inspect = _verifier(plan, directory, options, phase, errors) if options.verify else None
    progress = phase("quantizing", _source_bytes(plan.shards))
    finished = [shard for shard in plan.shards if (directory / shard.name).exists() and not options.verify]
    progress(_source_bytes(finished))
    left = [shard for shard in plan.shards if shard not in finished]
    with closing(_arriving(source, left, phase)) as shards:
        write_shards(shards, directory, journal, options.workers, progress, inspect)
    return errors if options.verify else None


def _arriving(source: Source, shards: list[ShardPlan], phase: Phase) -> Generator[ShardPlan, None, None]:
    """The shards, each with its source file there until the next one is asked for."""
    with closing(source.files.arriving([shard.source for shard in shards], phase)) as paths:
        for shard, path in zip(shards, paths, strict=True):
            assert path == shard.path
            yield shard


def _verifier(
    plan: Plan, directory: Path, options: Options, phase: Phase, errors: "list[TensorError]"
) -> Callable[[ShardPlan], None]:
    """A function that compares a new file with its source, and notes the errors of its tensors."""
    # What it computes needs torch, whose import takes seconds.
    from octet.quantize.verify import verify_shard

    progress = phase("verifying", _source_bytes(plan.shards))

    def verify(shard: ShardPlan) -> None:
        errors.extend(verify_shard(shard, directory, options.workers, progress))

    return verify


def _source_bytes(shards: Iterable[ShardPlan]) -> int:
    return sum(tensor.source.size for shard in shards for tensor in shard.tensors)


def _write_rest(
    source: Source,
    plan: Plan,
    options: Options,
    directory: Path,
    along: Companions,
    errors: "list[TensorError] | None",
) -> None:
    """The small files. config.json, without which no directory is a model, comes last."""
    for name in along.files:
        if name not in _WRITTEN:
            companions.copy(source.directory / name, directory / name)
    if source.weight_map is not None:
        _write(directory / INDEX, _json(_index(source, plan)))
    _write(directory / CARD, model_card(source, plan, options, errors).encode())
    _write(directory / CONFIG, _json(model_config(source.config, options, plan)))


def _index(source: Source, plan: Plan) -> dict[str, object]:
    tensors = {
        tensor.name: (tensor.size, shard.name) for shard in plan.shards for tensor in shard.header.tensors
    }
    return {
        "metadata": _metadata(source) | {"total_size": sum(size for size, _ in tensors.values())},
        "weight_map": {name: tensors[name][1] for name in sorted(tensors)},
    }


def _metadata(source: Source) -> dict[str, object]:
    """What the source's index says besides."""
    indices = [path for name in (INDEX, PICKLED_INDEX) if (path := source.directory / name).is_file()]
    metadata = read_json(indices[0]).get("metadata") if indices else None
    return metadata if isinstance(metadata, dict) else {}


def _warnings(
    source: Source,
    along: Companions,
    journal: Journal,
    options: Options,
    errors: "list[TensorError] | None",
) -> tuple[str, ...]:
    found = [
        f"{source.directory / name} leads out of the folder, and was not copied" for name in along.outside
    ]
    found += [
        f"{source.directory / file}: tensor {name} holds NaN or an infinity, and was copied as it is"
        for file, name in journal.spoiled
    ]
    for tensor in errors or ():
        if tensor.error.worst_sqnr < options.weights.least_sqnr:
            found.append(
                f"{tensor.name}: output channel {tensor.error.worst_channel} has only "
                f"{tensor.error.worst_sqnr:.2f} dB, where rounding leaves {options.weights.least_sqnr:.0f} "
                "or more: its weights are too small for a scale of their dtype, and may be zeros now"
            )
    return tuple(found)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    with saying(path, "cannot be written"), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    with saying(path, "cannot be written"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
