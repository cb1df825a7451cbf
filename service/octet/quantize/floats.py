"""Half-precision numbers as float32 and back, on plain memory: numpy knows no bfloat16."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FLOAT_DTYPES = ("BF16", "F16", "F32")
"""Dtypes of weights that can be quantized, as safetensors names them."""


def to_float32(values: "bytes | memoryview", dtype: str) -> "npt.NDArray[np.float32]":
    """The values, flat; memory that holds float32 already is not copied.

    Args:
        values: contiguous.
        dtype: one of `FLOAT_DTYPES`.
    """
    import numpy as np

    if dtype == "F32":
        return np.frombuffer(values, "<f4")
    if dtype == "F16":
        return np.frombuffer(values, "<f2").astype("<f4")
    wide = np.frombuffer(values, "<u2").astype("<u4")
    wide <<= 16
    return wide.view(np.float32)


def from_float32(values: "npt.NDArray[np.float32]", dtype: str) -> memoryview:
    """The bytes of the values in `dtype`, one of `FLOAT_DTYPES`: rounded to nearest, ties to even. What is
    too large becomes an infinity.
    """
    import numpy as np

    flat = np.ascontiguousarray(values).reshape(-1)
    if dtype == "F32":
        return flat.view(np.uint8).data
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return flat.astype("<f2").view(np.uint8).data
    bits = flat.view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    rounded[np.isnan(flat)] = 0x7FC0
    data: memoryview = rounded.view(np.uint8).data
    return data
