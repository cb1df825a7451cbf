"""Whether stored numbers are finite."""

# Of each dtype: the unsigned integers that its bits are, all bits but the sign, and those of infinity. With
# the sign left out, NaN's are above infinity's, and those of numbers below.
DTYPES = {
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
    "F64": ("<u8", 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
}
"""Dtypes, in safetensors' names, that may hold anything else."""


def all_finite(data: memoryview, dtype: str) -> bool:
    """Whether `data`, numbers of `dtype` one after the other, has neither NaN nor an infinity in it."""
    if dtype not in DTYPES or not data:
        return True
    import numpy

    bits, magnitude, infinity = DTYPES[dtype]
    values = numpy.frombuffer(data, bits)
    return bool((values & values.dtype.type(magnitude)).max() < infinity)
