"""Work on a piece of a tensor: some rows that are quantized, or some bytes that are copied.

Pieces are independent, so threads take them in any order, and memory is bounded by the pieces in work
whatever the size of a tensor. Files are read and written at offsets; nothing is mapped.
"""

import errno
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octet.quantize import finite
from octet.quantize.errors import QuantizeError, UnusableWeightError, reason_of
from octet.quantize.floats import from_float32, to_float32
from octet.quantize.kernel import per_channel_quant_fp8
from octet.quantize.plan import TensorPlan
from octet.quantize.safetensors_file import ITEM_SIZES

PIECE_BYTES = 4 << 20
"""Source bytes of a piece, but for rows that are longer."""

_READ_BYTES = 16 << 10
"""Bytes to read at a time, at least, where a piece's values are spread over its source: each time takes some
10 us, and threads wait for one another's."""

_STRIP = 128
"""Inputs of a matrix that are transposed at a time."""
_PADDING = 32

_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [begin, end) of a tensor that is quantized or changed, or bytes [begin, end) of a copied one.

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
    unit = row_bytes(tensor) if in_rows(tensor) else 1
    if unit == 0 or tensor.source.size == 0:
        return
    step = max(1, PIECE_BYTES // unit)
    if tensor.columns is not None:
        step = max(step, _READ_BYTES // ITEM_SIZES[tensor.source.dtype])
    count = tensor.source.size // unit
    for begin in range(0, count, step):
        end = min(begin + step, count)
        yield Piece(tensor, begin, end, (end - begin) * unit)


def in_rows(tensor: TensorPlan) -> bool:
    """Whether a tensor is worked on in rows; another one is bytes."""
    return tensor.scale is not None or tensor.change is not None


def row_bytes(tensor: TensorPlan) -> int:
    """Length in bytes of a row in the source; a vector's rows are its elements."""
    return math.prod(tensor.source.shape[1:]) * ITEM_SIZES[tensor.source.dtype]


def offset(piece: Piece) -> int:
    """Where a piece starts in the source file, in bytes."""
    unit = row_bytes(piece.tensor) if in_rows(piece.tensor) else 1
    return piece.tensor.source.offset + piece.begin * unit


def rewritten(piece: Piece, rows: memoryview) -> memoryview:
    """What is written of a piece of a tensor that an adapter changes and that stays unquantized.

    Raises:
        UnusableWeightError: a value does not fit the tensor's dtype.
    """
    import numpy

    change = piece.tensor.change
    assert change is not None
    data = from_float32(change.rows(piece.begin, rows), piece.tensor.target.dtype)
    if not numpy.isfinite(to_float32(data, piece.tensor.target.dtype)).all():
        raise UnusableWeightError(
            f"tensor {piece.tensor.source.name} with the adapter merged holds NaN or an infinity"
        )
    return data


def spans(piece: Piece) -> Iterator[tuple[int, int]]:
    """Where the values of a piece lie in the source file: offsets and lengths in bytes. That is one place,
    but for wide parts of matrices that lie transposed, of whose inputs each has its own.
    """
    tensor = piece.tensor
    if tensor.columns is None:
        yield offset(piece), piece.size
        return
    item = ITEM_SIZES[tensor.source.dtype]
    inputs, pitch = tensor.source.shape[1], tensor.columns * item
    first, length = tensor.source.offset + piece.begin * item, (piece.end - piece.begin) * item
    if _is_narrow(piece):
        yield first, (inputs - 1) * pitch + length
        return
    for row in range(inputs):
        yield first + row * pitch, length


def _is_narrow(piece: Piece) -> bool:
    """Whether what lies between a piece's values is read as well, all at once: it takes less time, as long as
    there is not much more of it.
    """
    assert piece.tensor.columns is not None
    item = ITEM_SIZES[piece.tensor.source.dtype]
    return (piece.end - piece.begin) * item < _READ_BYTES and piece.tensor.columns * item <= 4 * _READ_BYTES


def upright(piece: Piece, data: memoryview) -> memoryview:
    """The rows of a piece of a matrix, of what lies in its `spans`."""
    columns = piece.tensor.columns
    if columns is None:
        return data
    import numpy

    inputs, count = piece.tensor.source.shape[1], piece.end - piece.begin
    item = ITEM_SIZES[piece.tensor.source.dtype]
    pitch = item * (columns if _is_narrow(piece) else count)
    values: numpy.ndarray[Any, Any] = numpy.ndarray((inputs, count), f"u{item}", data, strides=(pitch, item))
    rows = numpy.empty((count, inputs), values.dtype)
    # Values that lie a power of two apart share few lines of a cache: a strip's rows are set further apart.
    strip = numpy.empty((_STRIP, count + _PADDING), values.dtype)[:, :count]
    for begin in range(0, inputs, _STRIP):
        lying = strip[: inputs - begin]
        lying[:] = values[begin : begin + _STRIP]
        rows[:, begin : begin + _STRIP] = lying.T
    return rows.reshape(-1).view(numpy.uint8).data


class Files:
    """An open source file and the new one, and what is done between them. Threads share one object.

    Errors name the file and the tensor.
    """

    def __init__(
        self,
        source: Path,
        target: Path,
        source_fd: int,
        target_fd: int,
        spoiled: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Takes the files.

        Args:
            source: one to read.
            target: one to write.
            source_fd: the source, open.
            target_fd: the target, open.
            spoiled: told the name of a tensor that is copied with NaN or an infinity in it.
        """
        self._source, self._target = source, target
        self._spoiled = spoiled
        self._source_fd, self._target_fd = source_fd, target_fd
        self._local = threading.local()

    def process(self, piece: Piece) -> None:
        """Quantizes or copies a piece.

        Raises:
            QuantizeError: it cannot be read or written, or it holds NaN or an infinity.
        """
        if piece.tensor.scale is not None:
            self._quantize(piece)
        elif piece.tensor.change is not None:
            self._rewrite(piece)
        else:
            self._copy(piece)

    def _rewrite(self, piece: Piece) -> None:
        data = rewritten(piece, self._read(piece))
        self._write(piece, data, piece.tensor.target.offset + piece.begin * row_bytes(piece.tensor))

    def _copy(self, piece: Piece) -> None:
        source = piece.tensor.source.offset + piece.begin
        target = piece.tensor.target.offset + piece.begin
        copied = self._copy_in_kernel(piece, source, target)
        if copied and piece.tensor.source.dtype not in finite.DTYPES:
            return
        data = self._read(piece)
        if not finite.all_finite(data, piece.tensor.source.dtype):
            self._spoiled(piece.tensor.source.name)
        if not copied:
            self._write(piece, data, target)

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
        weight = upright(piece, self._read(piece))
        rows, columns = piece.end - piece.begin, tensor.source.shape[1]
        codes = self._buffer("codes", rows * columns)
        scales = self._buffer("scales", rows * ITEM_SIZES[scale_plan.dtype])
        if tensor.change is not None:
            weight = from_float32(tensor.change.rows(piece.begin, weight), "F32")
        elif scale_plan.dtype != tensor.source.dtype:
            # E5M2's scales are too small for half.
            weight = from_float32(to_float32(weight, tensor.source.dtype), "F32")
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

    def _read(self, piece: Piece) -> memoryview:
        """What lies in the piece's spans, one after the other."""
        places = list(spans(piece))
        data = self._buffer("data", sum(length for _, length in places))
        begin = 0
        for place, length in places:
            self._read_into(data[begin : begin + length], piece, place)
            begin += length
        return data

    def _read_into(self, data: memoryview, piece: Piece, place: int) -> None:
        done = 0
        while done < len(data):
            try:
                count = os.preadv(self._source_fd, [data[done:]], place + done)
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
