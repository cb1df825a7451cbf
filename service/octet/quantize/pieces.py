"""Work on a piece of a tensor: some rows that are quantized, or some bytes that are copied.

Pieces are independent, so threads take them in any order, and memory is bounded by the pieces in work
whatever the size of a tensor. Files are read and written at offsets; nothing is mapped.
"""

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from octet.quantize.errors import QuantizeError, UnusableWeightError, reason_of
from octet.quantize.kernel import per_channel_quant_fp8
from octet.quantize.plan import TensorPlan
from octet.quantize.safetensors_file import ITEM_SIZES

PIECE_BYTES = 4 << 20
"""Source bytes of a piece, but for rows that are longer."""

_READ_BYTES = 4 << 10
"""Bytes to read at a time, at least, where a piece's values are spread over its source."""

_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [begin, end) of a tensor that is quantized, or bytes [begin, end) of one that is copied.

    Attributes:
        tensor: the tensor.
        begin: its first row or byte.
        end: the one after its last.
        size: length of the piece in the source, in bytes.
    """

    tensor: TensorPlan
    begin: int
    end: int
    size: int


def split(tensor: TensorPlan) -> Iterator[Piece]:
    """The pieces of a tensor, in order; an empty tensor has none."""
    unit = row_bytes(tensor) if tensor.scale is not None else 1
    if unit == 0 or tensor.source.size == 0:
        return
    step = max(1, PIECE_BYTES // unit)
    if tensor.columns is not None:
        step = max(step, _READ_BYTES // ITEM_SIZES[tensor.source.dtype])
    count = tensor.source.size // unit
    for begin in range(0, count, step):
        end = min(begin + step, count)
        yield Piece(tensor, begin, end, (end - begin) * unit)


def row_bytes(tensor: TensorPlan) -> int:
    """Length in bytes of a row of a matrix, that is, of an output channel, in the source."""
    return tensor.source.shape[1] * ITEM_SIZES[tensor.source.dtype]


def spans(piece: Piece) -> Iterator[tuple[int, int]]:
    """Where the values of a piece of a matrix lie in the source file: offsets and lengths in bytes.

    They are the piece's rows one after the other, or, of a matrix that lies transposed, its columns.
    """
    tensor = piece.tensor
    if tensor.columns is None:
        yield tensor.source.offset + piece.begin * row_bytes(tensor), piece.size
        return
    item = ITEM_SIZES[tensor.source.dtype]
    first, length = tensor.source.offset + piece.begin * item, (piece.end - piece.begin) * item
    for row in range(tensor.source.shape[1]):
        yield first + row * tensor.columns * item, length


def upright(piece: Piece, data: memoryview) -> memoryview:
    """The rows of a piece of a matrix, of what lies in its `spans`."""
    if piece.tensor.columns is None:
        return data
    import numpy

    inputs = piece.tensor.source.shape[1]
    values = numpy.frombuffer(data, f"u{ITEM_SIZES[piece.tensor.source.dtype]}").reshape(inputs, -1)
    return numpy.ascontiguousarray(values.T).reshape(-1).view(numpy.uint8).data


class Files:
    """An open source file and the new one, and what is done between them. Threads share one object.

    Errors name the file and the tensor.
    """

    def __init__(self, source: Path, target: Path, source_fd: int, target_fd: int) -> None:
        self._source, self._target = source, target
        self._source_fd, self._target_fd = source_fd, target_fd
        self._local = threading.local()

    def process(self, piece: Piece) -> None:
        """Quantizes or copies a piece.

        Raises:
            QuantizeError: it cannot be read or written, or it holds NaN or an infinity.
        """
        if piece.tensor.scale is None:
            self._copy(piece)
        else:
            self._quantize(piece)

    def _copy(self, piece: Piece) -> None:
        source = piece.tensor.source.offset + piece.begin
        target = piece.tensor.target.offset + piece.begin
        if not self._copy_in_kernel(piece, source, target):
            self._write(piece, self._read(piece, [(source, piece.size)]), target)

    def _copy_in_kernel(self, piece: Piece, source: int, target: int) -> bool:
        """Copies without a detour through this process; False where the file systems cannot."""
        done = 0
        while done < piece.size:
            try:
                count = os.copy_file_range(
                    self._source_fd, self._target_fd, piece.size - done, source + done, target + done
                )
            except OSError as error:
                if error.errno in _NO_KERNEL_COPY:
                    return False
                name = piece.tensor.source.name
                raise QuantizeError(
                    f"{self._source}: tensor {name} cannot be copied to {self._target}: {reason_of(error)}"
                ) from error
            if count == 0:
                raise QuantizeError(f"{self._source} ends within the tensor {piece.tensor.source.name}")
            done += count
        return True

    def _quantize(self, piece: Piece) -> None:
        tensor, scale_plan = piece.tensor, piece.tensor.scale
        assert scale_plan is not None
        weight = upright(piece, self._read(piece, spans(piece)))
        rows, columns = piece.end - piece.begin, tensor.source.shape[1]
        codes = self._buffer("codes", rows * columns)
        scales = self._buffer("scales", rows * ITEM_SIZES[scale_plan.dtype])
        if scale_plan.dtype != tensor.source.dtype:
            weight = _widen(weight)
        bad = per_channel_quant_fp8(
            weight, scale_plan.dtype, (rows, columns), tensor.target.dtype, codes, scales
        )
        if bad is not None:
            raise UnusableWeightError(
                f"{self._source}: tensor {tensor.source.name} holds NaN or an infinity, "
                f"in output channel {piece.begin + bad}"
            )
        self._write(piece, codes, tensor.target.offset + piece.begin * columns)
        self._write(piece, scales, scale_plan.offset + piece.begin * ITEM_SIZES[scale_plan.dtype])

    def _buffer(self, name: str, size: int) -> memoryview:
        """`size` bytes that this thread may use until it asks for the same buffer again."""
        buffer: bytearray | None = getattr(self._local, name, None)
        if buffer is None or len(buffer) < size:
            buffer = bytearray(size)
            setattr(self._local, name, buffer)
        return memoryview(buffer)[:size]

    def _read(self, piece: Piece, places: Iterable[tuple[int, int]]) -> memoryview:
        """What lies at the places, offsets and lengths, which make up the piece."""
        data = self._buffer("data", piece.size)
        begin = 0
        for offset, length in places:
            self._read_into(data[begin : begin + length], piece, offset)
            begin += length
        return data

    def _read_into(self, data: memoryview, piece: Piece, offset: int) -> None:
        done = 0
        while done < len(data):
            try:
                count = os.preadv(self._source_fd, [data[done:]], offset + done)
            except OSError as error:
                raise QuantizeError(
                    f"{self._source}: tensor {piece.tensor.source.name} cannot be read: {reason_of(error)}"
                ) from error
            if count == 0:
                raise QuantizeError(f"{self._source} ends within the tensor {piece.tensor.source.name}")
            done += count

    def _write(self, piece: Piece, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._target_fd, data[done:], offset + done)
            except OSError as error:
                raise QuantizeError(
                    f"{self._target}: tensor {piece.tensor.target.name} cannot be written: {reason_of(error)}"
                ) from error


def _widen(halves: memoryview) -> memoryview:
    """Half-precision values as float32: E5M2's scales are too small for half."""
    import numpy

    return numpy.frombuffer(halves, "<f2").astype("<f4").data
