"""The weight kernel against the oracle, on every instruction set that this machine has."""

import pytest
import torch

from octet import ops
from octet.ops import reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FORMATS = (torch.float8_e4m3fn, torch.float8_e5m2)

pytestmark = pytest.mark.usefixtures("isa")
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_format = pytest.mark.parametrize("fp8", FORMATS, ids=str)


def assert_equals_reference(w: torch.Tensor, fp8: torch.dtype) -> None:
    codes, scale = ops.per_channel_quant_fp8(w, fp8)
    expected_codes, expected_scale = reference.per_channel_quant_fp8(w, fp8)
    assert scale.dtype is w.dtype
    torch.testing.assert_close(scale, expected_scale, rtol=0, atol=0, equal_nan=True)
    assert codes.dtype is fp8
    # NaN is any of several codes; the kernel's is one of them.
    nan = expected_codes.to(torch.float32).isnan()
    assert torch.equal(codes.to(torch.float32).isnan(), nan)
    different = (codes.view(torch.uint8) != expected_codes.view(torch.uint8)) & ~nan
    assert int(different.sum()) == 0


@by_dtype
@by_format
@pytest.mark.parametrize("columns", [0, 1, 7, 8, 15, 16, 17, 31, 63, 64, 65, 200, 1027])
def test_equals_the_oracle_at_every_width(dtype: torch.dtype, fp8: torch.dtype, columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    w = torch.randn((37, columns), generator=generator) * 0.05
    assert_equals_reference(w.to(dtype), fp8)


@by_dtype
@by_format
def test_equals_the_oracle_at_every_magnitude(dtype: torch.dtype, fp8: torch.dtype) -> None:
    # Rows from the smallest subnormal to the largest value, whose elements spread over many binades.
    generator = torch.Generator().manual_seed(1)
    limits = torch.finfo(dtype)
    low, high = torch.tensor([limits.smallest_normal, limits.max], dtype=torch.float64).log2()
    tops = torch.linspace(float(low) - 12, float(high) - 0.01, 300, dtype=torch.float64).exp2()
    spread = torch.exp2(-20 * torch.rand((300, 130), generator=generator, dtype=torch.float64))
    signs = torch.randint(0, 2, (300, 130), generator=generator) * 2 - 1
    assert_equals_reference((tops[:, None] * spread * signs).to(dtype), fp8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@by_format
def test_equals_the_oracle_for_every_half(dtype: torch.dtype, fp8: torch.dtype) -> None:
    # Every finite value in a row whose largest one is one of many.
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    every = every[every.isfinite()]
    magnitude = every.abs()
    for top in (2.0**-14, 0.007, 0.05, 0.9, 1.0, 3.0, 447.0, 448.0, 60000.0):
        largest = torch.tensor(top, dtype=dtype)
        assert_equals_reference(every[magnitude <= largest][None, :], fp8)


@by_dtype
def test_a_row_of_zeros_has_epsilon_as_its_scale_and_positive_codes(dtype: torch.dtype) -> None:
    w = torch.tensor([[0.0, -0.0, 0.0], [-0.0, 1.0, -1e-30]], dtype=dtype)
    codes, scale = ops.per_channel_quant_fp8(w)
    assert float(scale[0]) == torch.finfo(dtype).eps
    assert codes.view(torch.uint8)[0].tolist() == [0, 0, 0]
    assert codes.view(torch.uint8)[1, 0] == 0
    # -1e-30 stays negative only where its quotient does not round to zero before the cast.
    assert codes.view(torch.uint8)[1, 2] == (0 if dtype is torch.float16 else 0x80)


@by_dtype
@by_format
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_with_nan_or_infinity_shows_it_in_its_scale_alone(
    dtype: torch.dtype, fp8: torch.dtype, bad: float
) -> None:
    w = torch.ones((3, 70), dtype=dtype)
    w[1, 66] = bad
    assert_equals_reference(w, fp8)
    _, scale = ops.per_channel_quant_fp8(w, fp8)
    assert scale.isfinite().flatten().tolist() == [True, False, True]


def test_takes_rows_at_any_stride() -> None:
    w = torch.randn((9, 100)).to(torch.bfloat16)
    codes, scale = ops.per_channel_quant_fp8(w[::2, 3:80])
    expected_codes, expected_scale = ops.per_channel_quant_fp8(w[::2, 3:80].contiguous())
    assert torch.equal(codes.view(torch.uint8), expected_codes.view(torch.uint8))
    assert torch.equal(scale, expected_scale)


@pytest.mark.parametrize(
    ("shape", "codes_shape", "scale_dtype", "message"),
    [
        ((4,), (4,), torch.float32, "w must be"),
        ((4, 8), (4, 7), torch.float32, "q must have the shape of w"),
        ((4, 8), (4, 8), torch.float16, "scale must have the dtype of w"),
    ],
)
def test_refuses_what_does_not_fit(
    shape: tuple[int, ...], codes_shape: tuple[int, ...], scale_dtype: torch.dtype, message: str
) -> None:
    codes = torch.empty(codes_shape, dtype=torch.float8_e4m3fn)
    scale = torch.empty((4, 1), dtype=scale_dtype)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.octet.per_channel_quant_fp8_out(torch.zeros(shape), q=codes, scale=scale)


def test_refuses_strided_rows_and_other_dtypes() -> None:
    with pytest.raises(RuntimeError, match="must be adjacent"):
        ops.per_channel_quant_fp8(torch.zeros((4, 8)).T)
    with pytest.raises(RuntimeError, match="float32, float16 or bfloat16"):
        ops.per_channel_quant_fp8(torch.zeros((4, 8), dtype=torch.float64))
    with pytest.raises(RuntimeError, match="float8"):
        ops.per_channel_quant_fp8(torch.zeros((4, 8)), torch.uint8)
