"""per_token_quant_fp8 equals the oracle bit for bit, on every instruction set."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet import ops
from octet.ops import reference

FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
INF, NAN = math.inf, math.nan

pytestmark = pytest.mark.usefixtures("isa")
formats = pytest.mark.parametrize("fmt", FORMATS, ids=["e4m3", "e5m2"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f16", "bf16"])


def assert_same_bits(
    actual: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]
) -> None:
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
    shape = tuple(expected[0].shape)
    assert torch.equal(actual[1].view(torch.int32), expected[1].view(torch.int32)), f"scales of {shape}"
    assert torch.equal(actual[0].view(torch.uint8), expected[0].view(torch.uint8)), f"codes of {shape}"


def check(x: torch.Tensor, fmt: torch.dtype, scale_ub: torch.Tensor | None = None) -> None:
    assert_same_bits(
        ops.per_token_quant_fp8(x, fmt, scale_ub), reference.per_token_quant_fp8(x, fmt, scale_ub)
    )


def all_values(dtype: torch.dtype) -> torch.Tensor:
    """Every value of a 16-bit dtype, NaNs and infinities included."""
    return torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)


@formats
@dtypes
def test_hidden_sizes(fmt: torch.dtype, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    magnitudes = torch.tensor([[1e-4], [0.1], [1.0], [30.0], [3000.0]])
    for hidden in [*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 1000, 1152, 3840]:
        check((torch.randn(5, hidden, generator=generator) * magnitudes).to(dtype), fmt)


@formats
@dtypes
@pytest.mark.parametrize("shape", [(0, 0), (0, 64), (3, 0), (1, 1)])
def test_empty_and_smallest(fmt: torch.dtype, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    check(torch.ones(shape, dtype=dtype), fmt)


@formats
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("largest", [2.0**-24, 1.0, 3.140625, 447.0, 448.0, 57344.0])
@pytest.mark.parametrize("width", [129, 1025])  # long rows may take another way than short ones
def test_every_16_bit_value(fmt: torch.dtype, dtype: torch.dtype, largest: float, width: int) -> None:
    values = all_values(dtype)
    fitting = values[values.abs() <= largest]
    rows = torch.full((math.ceil(len(fitting) / (width - 1)), width), largest, dtype=dtype)
    padded = torch.cat([fitting, fitting.new_zeros(rows.shape[0] * (width - 1) - len(fitting))])
    rows[:, 1:] = padded.view(-1, width - 1)  # the first column pins every row's scale
    check(rows, fmt)


@formats
@pytest.mark.parametrize(
    ("dtype", "exponents"),
    [(torch.float16, range(-20, 16, 2)), (torch.bfloat16, range(-133, 128, 9))],
    ids=["f16", "bf16"],
)
def test_every_16_bit_value_under_many_scales(fmt: torch.dtype, dtype: torch.dtype, exponents: range) -> None:
    finite = all_values(dtype)
    finite = finite[finite.isfinite()]
    generator = torch.Generator().manual_seed(6)
    mantissas = 1.0 + torch.randint(0, 128, (len(exponents),), generator=generator) / 128
    for largest in torch.ldexp(mantissas, torch.tensor(exponents)).to(dtype):
        fitting = finite[finite.abs() <= largest]
        fitting = fitting[torch.randperm(len(fitting), generator=generator)[: 1023 * 8]]
        padded = torch.cat([fitting, fitting.new_zeros(-len(fitting) % 1023)])
        check(torch.cat([largest.expand(len(padded) // 1023, 1), padded.view(-1, 1023)], dim=1), fmt)


@formats
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_around_every_tie_of_every_scale(fmt: torch.dtype, dtype: torch.dtype) -> None:
    """A row for each significand of a scale, with every mantissa: each has its own ends of codes."""
    binade = all_values(dtype)
    binade = binade[(binade >= 1.0) & (binade < 2.0)]
    rows = torch.cat([binade, binade * 0.25, -binade * 0.125]).expand(len(binade), -1)
    padding = torch.zeros(len(binade), max(0, 640 - rows.shape[1]), dtype=dtype)
    check(torch.cat([rows, padding, binade[:, None] * 4], dim=1), fmt)


@formats
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("bound", [1.0, 6e4, 1e-6])
def test_every_16_bit_value_against_a_bound(fmt: torch.dtype, dtype: torch.dtype, bound: float) -> None:
    values = all_values(dtype)
    check(values.view(512, 128), fmt, torch.tensor(bound))
    shuffled = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
    check(shuffled.view(128, 512), fmt, torch.tensor([bound]))


@formats
@dtypes
def test_subnormal_codes_beside_a_large_value(fmt: torch.dtype, dtype: torch.dtype) -> None:
    smallest = 2.0**-6 if fmt == torch.float8_e4m3fn else 2.0**-14
    generator = torch.Generator().manual_seed(7)
    for spread in (0.5, 3.0, 30.0):  # nearly all, many and few of the codes are subnormal
        x = torch.randn(20, 1100, generator=generator) * (smallest * spread)
        x[:, 500] = torch.finfo(fmt).max
        check(x.to(dtype), fmt)


@formats
def test_float32_around_every_tie(fmt: torch.dtype) -> None:
    codes = torch.arange(0, 0x7F if fmt == torch.float8_e4m3fn else 0x7C, dtype=torch.uint8)
    values = codes.view(fmt).to(torch.float32)
    ties = (values[1:] + values[:-1]) / 2
    near = torch.cat([values, ties, torch.nextafter(ties, torch.tensor(INF)), torch.nextafter(ties, -ties)])
    row = torch.cat([near, -near]).unsqueeze(0)
    assert row.abs().max() == torch.finfo(fmt).max  # so the scale is one
    check(row, fmt)


@formats
def test_float32_bit_patterns(fmt: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, (64, 777), generator=generator, dtype=torch.int64)
    check(bits.to(torch.int32).view(torch.float32), fmt)
    exponents = torch.randint(-20, 20, (64, 777), generator=generator)
    check(torch.ldexp(torch.randn(64, 777, generator=generator), exponents), fmt)


@formats
@dtypes
@pytest.mark.parametrize(
    "special",
    [
        [0.0, -0.0],
        [NAN],
        [NAN, -NAN, 0.0],
        [NAN, 1.0, -2.0],
        [INF],
        [-INF, 1.0, -1.0, 0.0, -0.0],
        [INF, NAN, -INF],
        [1e-40, -1e-40],
        [1e-30, -3e-31],
        [6e-8, -6e-8, 5e-6],
        [65504.0, -65504.0, 1e-3],
    ],
    ids=str,
)
def test_special_values(fmt: torch.dtype, dtype: torch.dtype, special: list[float]) -> None:
    for hidden in (5, 300):
        row = torch.zeros(hidden)
        row[: len(special)] = torch.tensor(special)
        at_the_end = row.flip(0)
        everywhere = torch.tensor(special * hidden)[:hidden]
        check(torch.stack([row, at_the_end, everywhere]).to(dtype), fmt)


@formats
@dtypes
@pytest.mark.parametrize("hidden", [64, 575, 1152])
def test_rows_of_every_kind_after_one_another(fmt: torch.dtype, dtype: torch.dtype, hidden: int) -> None:
    """The row before may be what decides how a row is read, and where its maximum is found."""
    x = torch.randn(64, hidden, generator=torch.Generator().manual_seed(9))
    largest = torch.arange(64) * 37 % hidden  # everywhere in a row, its tail included
    x[torch.arange(64), largest] = 100.0
    for row, kind in enumerate([1.0, NAN, 1.0, 1.0, INF, NAN, 0.0, 1.0] * 8):
        x[row] = x[row] * kind if kind in (0.0, 1.0) else x[row]
        x[row, hidden - 1 - row % 3] = kind
    check(x.to(dtype), fmt)
    check(x.to(dtype), fmt, torch.tensor(3.0))


@formats
@pytest.mark.usefixtures("threads")
def test_more_than_the_caches_hold(fmt: torch.dtype) -> None:
    torch.set_num_threads(1)
    check(torch.randn(1500, 3840, generator=torch.Generator().manual_seed(10)).bfloat16(), fmt)


@formats
def test_nan_of_either_sign_becomes_the_largest_value(fmt: torch.dtype) -> None:
    # Set by its bits: torch may drop the sign of a NaN.
    x = torch.tensor([[0x7FC0, 0xFFC0 - 0x10000, 0x3F80]], dtype=torch.int16).view(torch.bfloat16)
    q, _ = ops.per_token_quant_fp8(x, fmt)
    assert q.to(torch.float32).tolist() == [[torch.finfo(fmt).max] * 3]


@formats
@dtypes
def test_scale_ub(fmt: torch.dtype, dtype: torch.dtype) -> None:
    x = torch.randn(40, 300, generator=torch.Generator().manual_seed(2)).to(dtype)
    for bound in (INF, 100.0, 1.5, 1e-3, 0.0, -1.0, NAN):
        check(x, fmt, torch.tensor([[bound]]))


@formats
@dtypes
def test_row_strides(fmt: torch.dtype, dtype: torch.dtype) -> None:
    x = torch.randn(20, 500, generator=torch.Generator().manual_seed(3)).to(dtype)
    check(x[:, 3:403], fmt)
    check(x[::3, 1:], fmt)
    check(x[:1].expand(6, -1), fmt)
    check(x.t()[:, :1], fmt)  # rows of one element lie side by side whatever the stride says


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(0, 9),
    hidden=st.integers(0, 700),
    offset=st.integers(0, 70),
    spare=st.integers(0, 70),
    dtype=st.sampled_from(DTYPES),
    fmt=st.sampled_from(FORMATS),
    magnitude=st.integers(-30, 15),
    bound=st.none() | st.floats(0.0, 4.0, width=32),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_stride(
    tokens: int,
    hidden: int,
    offset: int,
    spare: int,
    dtype: torch.dtype,
    fmt: torch.dtype,
    magnitude: int,
    bound: float | None,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(tokens, offset + hidden + spare, generator=generator) * 2.0**magnitude
    x = whole.to(dtype)[:, offset : offset + hidden]
    check(x, fmt, None if bound is None else torch.tensor(bound))


@formats
def test_out_writes_the_rows_and_nothing_else(fmt: torch.dtype) -> None:
    x = torch.randn(6, 77, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16)
    buffer = torch.full((6, 100), 0xA5, dtype=torch.uint8)
    q = buffer.view(fmt)[:, 10:87]
    scale = torch.empty(6, 1)
    torch.ops.octet.per_token_quant_fp8_out(x, None, q=q, scale=scale)
    assert_same_bits((q.contiguous(), scale), reference.per_token_quant_fp8(x, fmt))
    assert (buffer[:, :10] == 0xA5).all()
    assert (buffer[:, 87:] == 0xA5).all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_thread_counts(count: int) -> None:
    x = torch.randn(300, 1000, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    torch.set_num_threads(count)
    check(x, torch.float8_e4m3fn)


@formats
@dtypes
def test_flushing_of_denormals_changes_nothing(fmt: torch.dtype, dtype: torch.dtype) -> None:
    x = torch.tensor([[1e-40, -1e-40, 1e-6, -0.0], [1e-7, 6e-8, -6e-8, 1e-5]]).to(dtype)
    expected = reference.per_token_quant_fp8(x, fmt)
    torch.set_flush_denormal(True)
    try:
        actual = ops.per_token_quant_fp8(x, fmt)
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(actual, expected)


@pytest.mark.parametrize(
    ("x", "dtype", "scale_ub", "message"),
    [
        (torch.ones(3), torch.float8_e4m3fn, None, r"x must be \[tokens, hidden\], got 1 dimensions"),
        (torch.ones(2, 3, 4), torch.float8_e4m3fn, None, "flatten the leading ones"),
        (torch.ones(2, 3, dtype=torch.float64), torch.float8_e4m3fn, None, "x must be float32, float16 or"),
        (torch.ones(2, 3, dtype=torch.int32), torch.float8_e4m3fn, None, "x must be float32, float16 or"),
        (torch.ones(2, 3), torch.float16, None, "dtype must be torch.float8_e4m3fn or torch.float8_e5m2"),
        (torch.ones(2, 3), torch.float8_e4m3fnuz, None, "dtype must be torch.float8_e4m3fn or"),
        (torch.ones(3, 2).t(), torch.float8_e4m3fn, None, "must be adjacent in memory.*contiguous"),
        (torch.ones(2, 3), torch.float8_e4m3fn, torch.ones(2), "scale_ub must be one float32 value"),
        (torch.ones(2, 3), torch.float8_e4m3fn, torch.ones(1).double(), "scale_ub must be one float32"),
    ],
)
def test_wrong_arguments(
    x: torch.Tensor, dtype: torch.dtype, scale_ub: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.per_token_quant_fp8(x, dtype, scale_ub)


@pytest.mark.parametrize(
    ("q", "scale", "message"),
    [
        (torch.empty(2, 4, dtype=torch.float8_e4m3fn), torch.empty(2, 1), "q must have the shape of x"),
        (torch.empty(2, 3), torch.empty(2, 1), "dtype must be torch.float8_e4m3fn"),
        (torch.empty(3, 2, dtype=torch.uint8).t().view(torch.float8_e5m2), torch.empty(2, 1), "adjacent"),
        (torch.empty(2, 3, dtype=torch.float8_e4m3fn), torch.empty(2), r"contiguous \[2, 1\]"),
        (torch.empty(2, 3, dtype=torch.float8_e4m3fn), torch.empty(2, 1).half(), "scale must be float32"),
    ],
)
def test_wrong_outputs(q: torch.Tensor, scale: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.octet.per_token_quant_fp8_out(torch.ones(2, 3), None, q=q, scale=scale)
