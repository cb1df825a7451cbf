"""The weight kernel against the oracle, on every instruction set that this machine has."""

from collections.abc import Iterator

import pytest
import torch

from octet.ops import reference
from octet.quantize import kernel

NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FORMATS = (torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.fixture(params=kernel.extension.available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    before = kernel.extension.isa()
    kernel.extension.use_isa(request.param)
    yield
    kernel.extension.use_isa(before)


by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
by_format = pytest.mark.parametrize("fp8", FORMATS, ids=str)


def quantize(w: torch.Tensor, fp8: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, int | None]:
    """Codes, scales, and the first row whose scale is not finite."""
    (rows, columns), item = w.shape, w.element_size()
    codes, scales = bytearray(rows * columns), bytearray(rows * item)
    data = w.contiguous().flatten().view(torch.uint8).numpy()
    bad = kernel.per_channel_quant_fp8(data, NAMES[w.dtype], (rows, columns), NAMES[fp8], codes, scales)
    if rows * columns == 0:  # torch takes no empty buffer.
        return torch.empty((rows, columns), dtype=fp8), torch.frombuffer(scales, dtype=w.dtype)[:, None], bad
    shaped = torch.frombuffer(codes, dtype=fp8).view(rows, columns)
    return shaped, torch.frombuffer(scales, dtype=w.dtype)[:, None], bad


def assert_equals_reference(w: torch.Tensor, fp8: torch.dtype) -> None:
    codes, scale, _ = quantize(w, fp8)
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
    codes, scale, bad = quantize(w, torch.float8_e4m3fn)
    assert bad is None
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
    _, scale, first = quantize(w, fp8)
    assert first == 1
    assert scale.isfinite().flatten().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F64"}, "dtype must be F32, F16 or BF16, got F64"),
        ({"fp8": "U8"}, "format must be F8_E4M3 or F8_E5M2, got U8"),
        ({"shape": (4, 9)}, "w must have 144 bytes, got 128"),
        ({"shape": (-4, -8)}, "not negative"),
        ({"codes": bytearray(31)}, "q must have 32 bytes, got 31"),
        ({"scales": bytearray(8)}, "scale must have 16 bytes, got 8"),
        ({"w": memoryview(bytearray(129))[1:]}, "w must be aligned to its elements"),
        ({"w": memoryview(bytearray(256))[::2]}, "w must be contiguous"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    fitting = {
        "w": bytearray(128),
        "dtype": "F32",
        "shape": (4, 8),
        "fp8": "F8_E4M3",
        "codes": bytearray(32),
        "scales": bytearray(16),
    }
    kernel.per_channel_quant_fp8(**fitting)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        kernel.per_channel_quant_fp8(**(fitting | change))  # type: ignore[arg-type]


def test_refuses_outputs_that_cannot_be_written() -> None:
    with pytest.raises(BufferError):
        kernel.per_channel_quant_fp8(bytes(8), "F32", (1, 2), "F8_E4M3", bytes(2), bytearray(4))
