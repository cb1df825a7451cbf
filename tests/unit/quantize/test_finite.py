"""Whether stored numbers are finite, against torch."""

import pytest
import torch

from octet.quantize.finite import all_finite

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


@pytest.mark.parametrize("name", DTYPES)
def test_numbers_of_every_dtype(name: str) -> None:
    dtype = DTYPES[name]
    limits = torch.finfo(dtype)
    finite = [0.0, -0.0, 1.0, limits.max, limits.min, limits.tiny, limits.smallest_normal / 2]
    for value in (*finite, torch.nan, -torch.nan, torch.inf, -torch.inf):
        numbers = torch.ones(9, dtype=dtype)
        numbers[-1] = value
        data = memoryview(numbers.view(torch.uint8).numpy()).cast("B")
        assert all_finite(data, name) == bool(numbers.isfinite().all()), value


@pytest.mark.parametrize("name", ["I64", "U8", "F8_E4M3", "BOOL"])
def test_what_is_always_finite(name: str) -> None:
    assert all_finite(memoryview(b"\xff" * 16), name)
    assert all_finite(memoryview(b""), "BF16")
