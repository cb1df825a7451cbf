"""The arithmetic of the CUDA kernels, compiled for the host, against the oracle."""

import ctypes
import math
from pathlib import Path

import pytest
import torch

from octet.ops import reference
from tests.kernels.cuda_toolkit import compile_for_host

formats = pytest.mark.parametrize("fmt", [torch.float8_e4m3fn, torch.float8_e5m2], ids=["e4m3", "e5m2"])
narrow_dtypes = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = Path(__file__).with_name("device_arithmetic.cpp")
    library = ctypes.CDLL(
        str(compile_for_host([source], tmp_path_factory.mktemp("device") / "arithmetic.so"))
    )
    library.wrong_quotients_at_boundaries.restype = ctypes.c_int64
    return library


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def all_values(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)


def random_bits(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (count,), generator=generator, dtype=torch.int64)
    return bits.to(torch.int32).view(torch.float32)


def assert_same_values(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal bits; a NaN is as good as any other."""
    assert torch.equal(actual.isnan(), expected.isnan())
    bits = {2: torch.int16, 4: torch.int32}[expected.itemsize]
    numbers = ~expected.isnan()
    assert torch.equal(actual[numbers].view(bits), expected[numbers].view(bits))


@narrow_dtypes
def test_elements_widen_as_in_torch(arithmetic: ctypes.CDLL, dtype: torch.dtype) -> None:
    narrow = all_values(dtype)
    wide = torch.empty(len(narrow))
    function = arithmetic.widen_f16 if dtype == torch.float16 else arithmetic.widen_bf16
    function(pointer(narrow), ctypes.c_int64(len(narrow)), pointer(wide))
    assert_same_values(wide, narrow.float())


@narrow_dtypes
def test_elements_round_as_in_torch(arithmetic: ctypes.CDLL, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    spread = torch.randn(100_000, generator=generator) * torch.logspace(-8, 6, 100_000)
    beside = torch.cat([all_values(torch.float16).float(), all_values(torch.bfloat16).float()]) * (1 + 2**-11)
    wide = torch.cat([random_bits(200_000), spread, beside])
    narrow = torch.empty(len(wide), dtype=dtype)
    function = arithmetic.round_f16 if dtype == torch.float16 else arithmetic.round_bf16
    function(pointer(wide), ctypes.c_int64(len(wide)), pointer(narrow))
    assert_same_values(narrow, wide.to(dtype))


@formats
@pytest.mark.parametrize("amax", [None, 1.0, 5.51, 345518.4, 1e-30, 3.4e38, math.inf])
def test_codes_equal_the_oracle(arithmetic: ctypes.CDLL, fmt: torch.dtype, amax: float | None) -> None:
    """By the conversion instruction and by integers; with a bound that gives about `amax`, or without."""
    spread = torch.randn(200_000, generator=torch.Generator().manual_seed(2)) * min(amax or 1.0, 1e38)
    numbers = torch.cat([all_values(torch.bfloat16).float(), random_bits(200_000), spread])
    for x in (numbers, spread):
        bound = None if amax is None else torch.tensor([amax])
        expected, _ = reference.per_token_quant_fp8(x.unsqueeze(0), fmt, bound)
        by_instruction = torch.empty(len(x), dtype=torch.uint8)
        by_integers = torch.empty(len(x), dtype=torch.uint8)
        function = arithmetic.quantize_e4m3 if fmt == torch.float8_e4m3fn else arithmetic.quantize_e5m2
        largest = ctypes.c_float(x[~x.isnan()].abs().max().item())
        count = ctypes.c_int64(len(x))
        function(pointer(x), count, largest, pointer(bound), pointer(by_instruction), pointer(by_integers))
        assert torch.equal(by_instruction, expected[0].view(torch.uint8))
        assert torch.equal(by_integers, expected[0].view(torch.uint8))


def test_quotients_are_those_of_ieee_division_at_every_rounding_boundary(arithmetic: ctypes.CDLL) -> None:
    """For every 61st mantissa of the scale; a step of 1, which takes minutes, found no difference either."""
    assert arithmetic.wrong_quotients_at_boundaries(ctypes.c_uint32(7), ctypes.c_uint32(61)) == 0
