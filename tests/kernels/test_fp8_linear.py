"""fp8_linear against an exact product of the decoded operands, on every instruction set."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet import ops
from octet.ops import reference

FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]
PAIRS = [(x, w) for x in FORMATS for w in FORMATS]
OUT_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
PAIR_IDS = ["e4m3-e4m3", "e4m3-e5m2", "e5m2-e4m3", "e5m2-e5m2"]

Linear = Callable[..., torch.Tensor]

pytestmark = pytest.mark.usefixtures("isa")
pairs = pytest.mark.parametrize(("x_format", "w_format"), PAIRS, ids=PAIR_IDS)


def random_operands(
    rows: int, k: int, n: int, x_format: torch.dtype, w_format: torch.dtype, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    xq, x_scale = reference.per_token_quant_fp8(torch.randn(rows, k, generator=generator), x_format)
    w, w_scale = reference.per_token_quant_fp8(torch.randn(n, k, generator=generator), w_format)
    return xq, x_scale, w, w_scale


def error_bound(
    xq: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """What a float32 result may differ from the exact one by.

    Products of two FP8 values have at most 8 significant bits and are exact. A sum of K of them in
    float32, in any order, makes at most K roundings on the way of a product to the result; the two
    scales and the bias add three. Hence |error| <= gamma * (s_x s_w sum |x||w| + |bias|) with
    gamma = n u / (1 - n u), n = K + 3, u = 2^-24 (Higham, Accuracy and Stability, 3.1).
    """
    steps = (xq.shape[1] + 3) * 2.0**-24
    magnitude = reference.fp8_linear(
        xq.to(torch.float32).abs(),
        x_scale,
        w.to(torch.float32).abs(),
        w_scale,
        None if bias is None else bias.abs(),
    )
    return magnitude * (steps / (1 - steps))


def check(
    xq: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    linear: Linear = ops.fp8_linear,
) -> None:
    out = linear(xq, x_scale, w, w_scale, bias, torch.float32)
    assert out.dtype == torch.float32
    assert out.shape == (xq.shape[0], w.shape[0])
    exact = reference.fp8_linear(xq, x_scale, w, w_scale, bias)
    assert ((out - exact).abs() <= error_bound(xq, x_scale, w, w_scale, bias)).all()
    for dtype in (torch.float16, torch.bfloat16):
        rounded = linear(xq, x_scale, w, w_scale, bias, dtype)
        assert torch.equal(rounded, out.to(dtype))  # the same sum, rounded once


@pairs
def test_row_counts(x_format: torch.dtype, w_format: torch.dtype) -> None:
    for rows in (*range(1, 21), 32, 33, 48, 63, 64, 65, 130, 300):
        check(*random_operands(rows, 192, 29, x_format, w_format))


@pairs
@pytest.mark.parametrize("k", [1, 7, 8, 31, 32, 63, 64, 65, 127, 129, 1023, 1025, 1152, 2047, 2049])
def test_inner_sizes(x_format: torch.dtype, w_format: torch.dtype, k: int) -> None:
    for rows in (1, 10, 70):  # a few rows straight from the codes, more through expanded blocks
        check(*random_operands(rows, k, 9, x_format, w_format))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 23, 24, 25, 47, 49, 63, 64, 65, 500])
@pytest.mark.parametrize("rows", [1, 7, 11, 20, 40, 60])
def test_output_sizes(rows: int, n: int) -> None:
    check(*random_operands(rows, 70, n, torch.float8_e4m3fn, torch.float8_e4m3fn))


def test_more_rows_and_columns_than_a_block() -> None:
    # 200 rows of 12000 f32 operands pass the 2 MiB that are expanded at a time, and 40 columns pass
    # the 256 KiB; of bf16 operands, 600 rows and 1100 columns pass the largest tile.
    check(*random_operands(200, 12000, 40, torch.float8_e4m3fn, torch.float8_e4m3fn))
    check(*random_operands(600, 130, 1100, torch.float8_e4m3fn, torch.float8_e4m3fn))


@pytest.mark.parametrize("shape", [(0, 64, 8), (3, 64, 0), (0, 0, 0)])
def test_empty_output(shape: tuple[int, int, int]) -> None:
    out = ops.fp8_linear(*random_operands(*shape, torch.float8_e4m3fn, torch.float8_e4m3fn))
    assert out.shape == (shape[0], shape[2])


@pytest.mark.parametrize("rows", [2, 20])
def test_empty_inner_dimension_leaves_the_bias(rows: int) -> None:
    operands = random_operands(rows, 0, 5, torch.float8_e4m3fn, torch.float8_e4m3fn)
    bias = torch.arange(5.0)
    assert torch.equal(ops.fp8_linear(*operands, bias, torch.float32), bias.expand(rows, 5))


def check_small_integers(
    rows: int,
    k: int,
    n: int,
    x_format: torch.dtype,
    w_format: torch.dtype,
    *,
    linear: Linear = ops.fp8_linear,
) -> None:
    # All sums stay below 2^24, so any order of f32 additions is exact: one operand dropped, doubled
    # or paired with the wrong partner shows.
    generator = torch.Generator().manual_seed(k)
    x = torch.randint(-4, 5, (rows, k), generator=generator).float()
    w = torch.randint(-4, 5, (n, k), generator=generator).float()
    out = linear(
        x.to(x_format),
        torch.full((rows, 1), 0.5),
        w.to(w_format),
        torch.full((n, 1), 2.0),
        None,
        torch.float32,
    )
    assert torch.equal(out, x @ w.t())


@pairs
@pytest.mark.parametrize(("rows", "k", "n"), [(1, 3840, 50), (8, 777, 30), (37, 2100, 21), (150, 1100, 50)])
def test_small_integers_multiply_exactly(
    x_format: torch.dtype, w_format: torch.dtype, rows: int, k: int, n: int
) -> None:
    check_small_integers(rows, k, n, x_format, w_format)


@pytest.mark.parametrize("rows", [4, 5, 6, 7, 8])
def test_inner_blocks_of_a_few_rows(rows: int) -> None:
    # 5 to 8 bf16 rows are multiplied in equal blocks of as many whole steps of 64 k as 24 KiB hold.
    most = 12 * 1024 // rows // 64 * 64
    for k in (most - 1, most, most + 1, 2 * most, 2 * most + 1, 3 * most - 65, 15360):
        check_small_integers(rows, k, 19, torch.float8_e4m3fn, torch.float8_e5m2)
    check(*random_operands(rows, 3 * most + 7, 11, torch.float8_e4m3fn, torch.float8_e4m3fn))


@pairs
@pytest.mark.parametrize("rows", [1, 8, 30])
def test_every_code_decodes(x_format: torch.dtype, w_format: torch.dtype, rows: int) -> None:
    check_every_code(rows, x_format, w_format)


def check_every_code(
    rows: int, x_format: torch.dtype, w_format: torch.dtype, *, linear: Linear = ops.fp8_linear
) -> None:
    one = torch.ones(1).to(x_format)
    codes = torch.arange(256, dtype=torch.uint8)
    w = codes.view(w_format).unsqueeze(1)
    x = one.expand(rows, 1).contiguous()
    out = linear(x, torch.ones(rows, 1), w, torch.ones(256, 1), None, torch.float32)
    expected = w.to(torch.float32).t().expand(rows, 256)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(0.0), expected.nan_to_num(0.0))

    activations = codes.view(x_format).unsqueeze(1)
    weight = torch.ones(1, 1).to(w_format)
    out = linear(activations, torch.ones(256, 1), weight, torch.ones(1, 1), None, torch.float32)
    expected = activations.to(torch.float32)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(0.0), expected.nan_to_num(0.0))


@pytest.mark.parametrize("rows", [1, 12, 70])
def test_nan_and_infinity_stay_in_their_row_and_column(rows: int) -> None:
    check_nan_and_infinity(rows)


def check_nan_and_infinity(rows: int, *, linear: Linear = ops.fp8_linear) -> None:
    x = torch.ones(rows, 100)
    w = torch.ones(10, 100)
    x[0, 99] = math.nan
    w[3, 0] = math.inf
    out = linear(
        x.to(torch.float8_e4m3fn),
        torch.ones(rows, 1),
        w.to(torch.float8_e5m2),
        torch.ones(10, 1),
        None,
        torch.float32,
    )
    expected = x @ w.t()
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.isinf(), expected.isinf())
    assert out.isnan().sum() == 10
    assert out.isinf().sum() == rows - 1


@pytest.mark.parametrize("dtype", OUT_DTYPES, ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("rows", [2, 15])
def test_bias(dtype: torch.dtype, rows: int) -> None:
    operands = random_operands(rows, 100, 33, torch.float8_e4m3fn, torch.float8_e5m2)
    check(*operands, torch.randn(33, generator=torch.Generator().manual_seed(1)).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_output_rounding(dtype: torch.dtype) -> None:
    # The bias alone decides the outputs: ties, subnormals, overflow, infinities and NaN of the type.
    generator = torch.Generator().manual_seed(2)
    bits = torch.randint(-(2**31), 2**31, (4000,), generator=generator, dtype=torch.int64).to(torch.int32)
    near = torch.arange(-32768, 32768, 7, dtype=torch.int32).to(torch.int16).view(dtype).to(torch.float32)
    ties = torch.cat([(near[1:] + near[:-1]) / 2, torch.nextafter(near, near + 1), near])
    limits = torch.tensor([65519.0, 65519.996, 65520.0, -65520.0, 3.4e38, -3.4e38, 2e-8, 3e-8, 2.0**-25])
    bias = torch.cat([bits.view(torch.float32), ties, limits])
    x, x_scale = torch.zeros(1, 1).to(torch.float8_e4m3fn), torch.ones(1, 1)
    w, w_scale = torch.zeros(len(bias), 1).to(torch.float8_e4m3fn), torch.ones(len(bias), 1)
    out = ops.fp8_linear(x, x_scale, w, w_scale, bias, dtype)[0]
    expected = (bias + 0.0).to(dtype)
    assert torch.equal(out.isnan(), expected.isnan())
    same = out.view(torch.int16) == expected.view(torch.int16)
    assert (same | expected.isnan()).all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rows", [1, 8, 40, 300])
def test_thread_counts(rows: int) -> None:
    operands = random_operands(rows, 700, 999, torch.float8_e4m3fn, torch.float8_e4m3fn)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(ops.fp8_linear(*operands, None, torch.float32))
    assert torch.equal(results[0], results[1])  # whichever thread computes which tile
    assert torch.equal(results[0], results[2])


def test_activations_at_any_stride() -> None:
    xq, x_scale, w, w_scale = random_operands(12, 90, 20, torch.float8_e4m3fn, torch.float8_e4m3fn)
    expected = ops.fp8_linear(xq, x_scale, w, w_scale)
    wide = torch.zeros(24, 130, dtype=torch.uint8).view(torch.float8_e4m3fn)
    wide[::2, 7:97] = xq
    assert torch.equal(ops.fp8_linear(wide[::2, 7:97], x_scale, w, w_scale), expected)
    columns = xq.view(torch.uint8).t().contiguous().t().view(torch.float8_e4m3fn)
    assert columns.stride(0) == 1
    assert torch.equal(ops.fp8_linear(columns, x_scale, w, w_scale), expected)
    scales = torch.stack([x_scale[:, 0], x_scale[:, 0]], dim=1)[:, :1]
    assert torch.equal(ops.fp8_linear(xq, scales, w, w_scale), expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(st.integers(1, 20), st.integers(1, 150)),
    k=st.one_of(st.integers(1, 300), st.integers(450, 600)),
    n=st.integers(1, 60),
    padding=st.integers(0, 70),
    offset=st.integers(0, 3),
    pair=st.sampled_from(PAIRS),
    with_bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_stride(
    rows: int,
    k: int,
    n: int,
    padding: int,
    offset: int,
    pair: tuple[torch.dtype, torch.dtype],
    with_bias: bool,
    seed: int,
) -> None:
    bias = torch.randn(n, generator=torch.Generator().manual_seed(seed)) if with_bias else None
    xq, x_scale, w, w_scale = random_operands(rows, k, n, *pair, seed=seed)
    # What lies between the rows must not be read into them: NaN codes.
    wide = torch.full((rows, offset + k + padding), 0x7F, dtype=torch.uint8).view(xq.dtype)
    strided = wide[:, offset : offset + k]
    strided.copy_(xq)
    check(strided, x_scale, w, w_scale, bias)


def wrong(**changes: object) -> dict[str, object]:
    arguments: dict[str, object] = {
        "xq": torch.zeros(2, 4).to(torch.float8_e4m3fn),
        "x_scale": torch.ones(2, 1),
        "w": torch.zeros(3, 4).to(torch.float8_e4m3fn),
        "w_scale": torch.ones(3, 1),
        "bias": None,
        "out_dtype": torch.bfloat16,
    }
    return arguments | changes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (wrong(xq=torch.zeros(2, 4)), "xq must be float8_e4m3fn or float8_e5m2"),
        (wrong(w=torch.zeros(3, 4)), "w must be float8_e4m3fn or float8_e5m2"),
        (wrong(xq=torch.zeros(8).to(torch.float8_e4m3fn)), r"xq must be \[tokens, in_features\]"),
        (wrong(w=torch.zeros(12).to(torch.float8_e4m3fn)), r"w must be \[out_features, in_features\]"),
        (wrong(w=torch.zeros(3, 5).to(torch.float8_e4m3fn)), "must agree in in_features"),
        (wrong(w=torch.zeros(4, 3).to(torch.float8_e4m3fn).t()), "contiguous.*transposed back"),
        (wrong(x_scale=torch.ones(2)), r"x_scale must be float32 \[2, 1\]"),
        (wrong(x_scale=torch.ones(2, 1).double()), r"x_scale must be float32 \[2, 1\]"),
        (wrong(w_scale=torch.ones(1, 3)), r"w_scale must be float32 \[3, 1\]"),
        (wrong(w_scale=torch.ones(3, 1).bfloat16()), r"w_scale must be float32 \[3, 1\]"),
        (wrong(bias=torch.ones(4)), r"bias must be float32, float16 or bfloat16 \[3\]"),
        (wrong(bias=torch.ones(3).double()), "bias must be float32, float16 or bfloat16"),
        (wrong(out_dtype=torch.float64), "out_dtype must be float32, float16 or bfloat16"),
        (wrong(out_dtype=torch.float8_e4m3fn), "out_dtype must be float32, float16 or bfloat16"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.fp8_linear(**arguments)  # type: ignore[arg-type]
