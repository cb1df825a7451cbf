"""What the headers of weight files say; their data is not read."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from octet.weight_index import CheckpointError

# Bits of an element, by safetensors' name of its dtype; those that are not here say their own.
_BITS = re.compile(r"(?:F|BF|I|U|C)(\d+)")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as its file's header describes it.

    Attributes:
        name: its name.
        dtype: safetensors' name, such as "F8_E4M3".
        shape: its sizes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The length of its data."""
        match = _BITS.match(self.dtype)
        return self.elements * (int(match[1]) if match else 8) // 8


def read_headers(path: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file; their data is not read.

    Raises:
        CheckpointError: it is no whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is no safetensors file, whose header could be read")
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                part = file.get_slice(name)
                yield Tensor(name, str(part.get_dtype()), tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
