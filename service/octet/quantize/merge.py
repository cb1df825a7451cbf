"""What an adapter makes of a tensor: computed in float32, some rows at a time.

With ``A`` and ``B`` of a low-rank adapter a weight ``W`` becomes ``W + (B @ A) * scale``; with DoRA, each of
its rows is then brought to a length of its own. No row depends on another, so a tensor can be streamed.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from octet.quantize.floats import to_float32
from octet.quantize.safetensors_file import ITEM_SIZES, StoredTensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to a weight [rows, columns]: ``(left @ right) * scale``.

    Attributes:
        left: f32 [rows, rank].
        right: f32 [rank, columns].
        scale: a factor.
        lengths: f32 [rows], DoRA's: the Euclidean length that each row has at the end; None without.
    """

    left: "npt.NDArray[np.float32]"
    right: "npt.NDArray[np.float32]"
    scale: float
    lengths: "npt.NDArray[np.float32] | None"


@dataclass(frozen=True, slots=True)
class Replacement:
    """A tensor of the adapter that takes another one's place.

    Attributes:
        file: where it lies.
        tensor: which it is, of the same shape as the other.
    """

    file: Path
    tensor: StoredTensor

    def read(self, begin: int, size: int) -> bytes:
        """Bytes [begin, begin + size) of it."""
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.tensor.offset + begin)
            return file.read(size)


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter does to one tensor.

    Attributes:
        tensor: the tensor as it is stored.
        replacement: what stands in its place; None where it stays.
        low_rank: what is added to that; None for nothing.
    """

    tensor: StoredTensor
    replacement: Replacement | None
    low_rank: LowRank | None

    @property
    def columns(self) -> int:
        """Elements of a row; a vector's rows have one."""
        return math.prod(self.tensor.shape[1:])

    def rows(self, begin: int, stored: "bytes | memoryview") -> "npt.NDArray[np.float32]":
        """The changed rows from `begin` on, f32 [rows, columns].

        Args:
            begin: the first one.
            stored: these rows as they are stored, which says how many there are.
        """
        import numpy as np

        values = to_float32(stored, self.tensor.dtype).reshape(-1, self.columns)
        end = begin + len(values)
        if self.replacement is not None:
            item = self.columns * ITEM_SIZES[self.replacement.tensor.dtype]
            data = self.replacement.read(begin * item, len(values) * item)
            values = to_float32(data, self.replacement.tensor.dtype).reshape(-1, self.columns)
        if self.low_rank is not None:
            added = self.low_rank.left[begin:end] @ self.low_rank.right
            added *= np.float32(self.low_rank.scale)
            values = values + added
            if self.low_rank.lengths is not None:
                with np.errstate(divide="ignore", invalid="ignore"):
                    factors = self.low_rank.lengths[begin:end] / np.linalg.norm(values, axis=1)
                    values = values * factors[:, None]
        return values
