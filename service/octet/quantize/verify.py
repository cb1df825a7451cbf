"""Reads a new weight file back and compares it with its source."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch

from octet.quantize.errors import QuantizeError, reason_of
from octet.quantize.pieces import Piece, offset, rewritten, spans, split, upright
from octet.quantize.plan import ShardPlan
from octet.quantize.safetensors_file import ITEM_SIZES, read_header
from octet.quantize.sqnr import WeightError, channel_energies, from_energies
from octet.quantize.writer import Progress, run_pieces

_TORCH_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True)
class TensorError:
    """The error of a quantized tensor.

    Attributes:
        name: the tensor's name.
        error: how far it is from its source.
    """

    name: str
    error: WeightError


def verify_shard(shard: ShardPlan, directory: Path, workers: int, progress: Progress) -> list[TensorError]:
    """Compares the new file of `shard` in `directory` with its source: what was copied has to be equal.

    Returns:
        The errors of the quantized tensors, in the source's order.

    Raises:
        QuantizeError: a file cannot be read, or the new one is not what was to be written.
    """
    path = directory / shard.name
    if set(read_header(path).tensors) != set(shard.header.tensors):
        raise QuantizeError(f"{path} does not hold the tensors that were written")
    energies: dict[str, list[tuple[int, torch.Tensor, torch.Tensor]]] = defaultdict(list)

    def compare(piece: Piece) -> None:
        if piece.tensor.scale is None:
            _compare_copy(piece, source_fd, target_fd, path)
        else:
            signal, noise = _piece_energies(piece, source_fd, target_fd)
            energies[piece.tensor.target.name].append((piece.begin, signal, noise))

    source_fd = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
    target_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = (piece for tensor in shard.tensors for piece in split(tensor))
        run_pieces(pieces, compare, workers, lambda piece: progress(piece.size), _compute_on_one_thread)
    except OSError as error:
        raise QuantizeError(f"{path} or {shard.path} cannot be read back: {reason_of(error)}") from error
    finally:
        os.close(source_fd)
        os.close(target_fd)
    return [
        TensorError(tensor.target.name, _total(energies[tensor.target.name]))
        for tensor in shard.tensors
        if tensor.target.name in energies
    ]


def _compute_on_one_thread() -> None:
    """A thread of its own for each piece, not torch's for all."""
    torch.set_num_threads(1)


def _compare_copy(piece: Piece, source_fd: int, target_fd: int, path: Path) -> None:
    source = os.pread(source_fd, piece.size, offset(piece))
    begin = offset(piece) - piece.tensor.source.offset
    if piece.tensor.change is not None:
        source = bytes(rewritten(piece, memoryview(source)))
    if os.pread(target_fd, piece.size, piece.tensor.target.offset + begin) != source:
        raise QuantizeError(f"{path}: tensor {piece.tensor.source.name} is not what its source is")


def _piece_energies(piece: Piece, source_fd: int, target_fd: int) -> tuple[torch.Tensor, torch.Tensor]:
    tensor, scale = piece.tensor, piece.tensor.scale
    assert scale is not None
    rows, columns = piece.end - piece.begin, tensor.source.shape[1]

    def values(data: bytes | memoryview, dtype: str) -> torch.Tensor:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(_TORCH_DTYPES[dtype]).view(rows, -1)

    stored = b"".join(os.pread(source_fd, length, place) for place, length in spans(piece))
    source = upright(piece, memoryview(stored))
    if tensor.change is None:
        weight = values(source, tensor.source.dtype)
    else:
        weight = torch.from_numpy(tensor.change.rows(piece.begin, source))

    item = ITEM_SIZES[scale.dtype]
    return channel_energies(
        weight,
        values(
            os.pread(target_fd, rows * columns, tensor.target.offset + piece.begin * columns),
            tensor.target.dtype,
        ),
        values(os.pread(target_fd, rows * item, scale.offset + piece.begin * item), scale.dtype),
    )


def _total(pieces: list[tuple[int, torch.Tensor, torch.Tensor]]) -> WeightError:
    pieces.sort(key=lambda piece: piece[0])
    return from_energies(torch.cat([piece[1] for piece in pieces]), torch.cat([piece[2] for piece in pieces]))
