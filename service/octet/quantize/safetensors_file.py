"""The safetensors format: where each tensor lies in a file, and the header of a file that is to be written.

The safetensors library reads and writes whole tensors. A tensor that is streamed in pieces needs its offset,
which only the header tells: 8 bytes little-endian, the header's length N; N bytes of JSON; then the data.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from octet.quantize.errors import QuantizeError, reason_of

ITEM_SIZES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
"""Bytes per element of the dtypes that a header names."""

LENGTH_BYTES = 8
"""Of the length that a file starts with."""

_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        name: its name.
        dtype: a key of `ITEM_SIZES`.
        shape: its sizes; it is stored in row-major order.
        offset: where its data starts, in bytes from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Length of its data in bytes."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says about itself.

    Attributes:
        tensors: what it holds, in the order of the data.
        metadata: its free-form strings, such as ``{"format": "pt"}``.
        file_size: length of the whole file in bytes.
    """

    tensors: tuple[StoredTensor, ...]
    metadata: dict[str, str]
    file_size: int


def read_header(path: Path) -> Header:
    """Reads a file's header; the data is not touched.

    Raises:
        QuantizeError: the file cannot be read, its header is damaged, or its length is not what the header
            says.
    """
    try:
        with safe_open(path, framework="np"):
            pass  # The library checks names, offsets and the length of the file.
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            text = file.read(length)
            size = os.fstat(file.fileno()).st_size
    except SafetensorError as error:
        raise QuantizeError(f"{path} is no whole safetensors file: {error}") from error
    except OSError as error:
        raise QuantizeError(f"{path} cannot be read: {reason_of(error)}") from error
    return parse_header(str(path), text, size)


def parse_header(where: str, text: bytes, file_size: int) -> Header:
    """Reads a header's JSON, of a file that is perhaps not here yet.

    Args:
        where: how errors name the file.
        text: the JSON.
        file_size: length of the whole file in bytes.

    Raises:
        QuantizeError: it is none, or names a dtype that is not known.
    """
    start = LENGTH_BYTES + len(text)
    tensors = []
    try:
        entries: dict[str, Any] = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        for name, entry in entries.items():
            if entry["dtype"] not in ITEM_SIZES:
                raise QuantizeError(
                    f"{where}: tensor {name} is of dtype {entry['dtype']}, which is not supported"
                )
            offset = start + entry["data_offsets"][0]
            tensors.append(StoredTensor(name, entry["dtype"], tuple(entry["shape"]), offset))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuantizeError(f"{where} is no whole safetensors file: its header is damaged") from error
    tensors.sort(key=lambda tensor: tensor.offset)
    return Header(tuple(tensors), metadata, file_size)


def lay_out(
    contents: Iterable[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]
) -> tuple[bytes, Header]:
    """The start of a new file, up to the data, and where its tensors will lie.

    Tensors are ordered as the safetensors library orders them, wide dtypes first and then by name, so that
    each is aligned to its element size.

    Args:
        contents: name, dtype and shape of each tensor.
        metadata: the file's free-form strings.
    """
    ordered = sorted(contents, key=lambda content: (-ITEM_SIZES[content[1]], content[0]))
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    relative = 0
    for name, dtype, shape in ordered:
        end = relative + math.prod(shape) * ITEM_SIZES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [relative, end]}
        relative = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    start = LENGTH_BYTES + len(text)
    tensors = tuple(
        StoredTensor(name, dtype, shape, start + entries[name]["data_offsets"][0])
        for name, dtype, shape in ordered
    )
    header = Header(tensors, metadata, start + relative)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, header
