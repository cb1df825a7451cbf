"""bf16_linear against an exact product, on every instruction set."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet import ops
from octet.ops import reference

Linear = Callable[..., torch.Tensor]

pytestmark = pytest.mark.usefixtures("isa")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def random_operands(rows: int, k: int, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(rows, k, seed=seed), normal(n, k, seed=seed + 1)


def error_bound(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What a float32 result may differ from the exact one by.

    A product of two bf16 values has at most 16 significant bits and is exact. A sum of K of them in float32,
    in any order, makes at most K roundings on the way of a product to the result; the bias adds one. Hence
    |error| <= gamma * (sum |x||w| + |bias|), gamma = n u / (1 - n u), n = K + 1, u = 2^-24 (Higham,
    Accuracy and Stability, 3.1).
    """
    steps = (x.shape[1] + 1) * 2.0**-24
    magnitude = reference.bf16_linear(x.abs(), w.abs(), None if bias is None else bias.abs())
    return magnitude * (steps / (1 - steps))


def check(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *, linear: Linear = ops.bf16_linear
) -> None:
    out = linear(x, w, bias, torch.float32)
    assert out.dtype == torch.float32
    assert out.shape == (x.shape[0], w.shape[0])
    assert ((out - reference.bf16_linear(x, w, bias)).abs() <= error_bound(x, w, bias)).all()
    for dtype in (torch.float16, torch.bfloat16):
        rounded = linear(x, w, bias, dtype)
        assert torch.equal(rounded, out.to(dtype))  # the same sum, rounded once


def test_row_counts() -> None:
    for rows in (*range(1, 21), 32, 33, 48, 63, 64, 65, 130, 300):
        check(*random_operands(rows, 192, 29))


@pytest.mark.parametrize(
    "k", [1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 65, 127, 767, 768, 769, 1152, 1537, 2049, 3840]
)
def test_inner_sizes(k: int) -> None:
    for rows in (1, 5, 8, 19):
        check(*random_operands(rows, k, 9))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 47, 511, 512, 513, 1100])
@pytest.mark.parametrize("rows", [1, 3, 7, 20])
def test_output_sizes(rows: int, n: int) -> None:
    check(*random_operands(rows, 70, n))


@pytest.mark.parametrize("shape", [(0, 64, 8), (3, 64, 0), (0, 0, 0)])
def test_empty_output(shape: tuple[int, int, int]) -> None:
    assert ops.bf16_linear(*random_operands(*shape)).shape == (shape[0], shape[2])


def check_no_inner_dimension(rows: int, *, linear: Linear = ops.bf16_linear) -> None:
    bias = torch.arange(5.0)
    out = linear(*random_operands(rows, 0, 5), bias, torch.float32)
    assert torch.equal(out, bias.expand(rows, 5))


@pytest.mark.parametrize("rows", [2, 20])
def test_empty_inner_dimension_leaves_the_bias(rows: int) -> None:
    check_no_inner_dimension(rows)


def check_small_integers(rows: int, k: int, n: int, *, linear: Linear = ops.bf16_linear) -> None:
    # All sums stay below 2^24, so any order of f32 additions is exact: one operand dropped, doubled
    # or paired with the wrong partner shows.
    generator = torch.Generator().manual_seed(k)
    x = torch.randint(-16, 17, (rows, k), generator=generator).float()
    w = torch.randint(-16, 17, (n, k), generator=generator).float()
    out = linear(x.to(torch.bfloat16), w.to(torch.bfloat16), None, torch.float32)
    assert torch.equal(out, x @ w.t())


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 3840, 50), (8, 777, 30), (37, 2100, 21), (150, 1100, 50)])
def test_small_integers_multiply_exactly(rows: int, k: int, n: int) -> None:
    check_small_integers(rows, k, n)


def check_every_value(rows: int, places: range, *, linear: Linear = ops.bf16_linear) -> None:
    """All bf16 there are, subnormal ones too, are multiplied by one in these places of 33."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    values = values[values.isfinite()].view(-1, 1)
    for place in places:
        x = torch.zeros(rows, 33, dtype=torch.bfloat16)
        x[:, place] = 1
        out = linear(x, values.expand(-1, 33).contiguous(), None, torch.float32)
        assert torch.equal(out, values.float().t().expand(rows, -1))


@pytest.mark.parametrize("rows", [1, 7])
def test_every_value(rows: int) -> None:
    check_every_value(rows, range(0, 33, 3))


def check_nan_and_infinity(rows: int, *, linear: Linear = ops.bf16_linear) -> None:
    x, w = torch.ones(rows, 100, dtype=torch.bfloat16), torch.ones(10, 100, dtype=torch.bfloat16)
    x[0, 99] = math.nan
    w[3, 0] = math.inf
    w[5, 98] = -math.inf
    out = linear(x, w, None, torch.float32)
    expected = x.float() @ w.float().t()
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(0.0), expected.nan_to_num(0.0))
    assert out.isnan().sum() == 10
    assert out.isinf().sum() == 2 * (rows - 1)


@pytest.mark.parametrize("rows", [1, 12, 70])
def test_nan_and_infinity_stay_in_their_row_and_column(rows: int) -> None:
    check_nan_and_infinity(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("rows", [2, 15])
def test_bias(dtype: torch.dtype, rows: int) -> None:
    check(*random_operands(rows, 100, 33), normal(33, seed=2).to(dtype))


def check_independent_rows(k: int, *, linear: Linear = ops.bf16_linear) -> None:
    x, w = random_operands(21, k, 37)
    together = linear(x, w, None, torch.float32)
    for rows in (1, 2, 3, 5, 8, 11):
        assert torch.equal(linear(x[:rows], w, None, torch.float32), together[:rows])


@pytest.mark.parametrize("k", [40, 1152, 2000])
def test_a_rows_result_does_not_depend_on_the_others(k: int) -> None:
    check_independent_rows(k)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_thread_counts(rows: int) -> None:
    operands = random_operands(rows, 700, 2999)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(ops.bf16_linear(*operands, None, torch.float32))
    assert torch.equal(results[0], results[1])  # whichever thread computes which tile
    assert torch.equal(results[0], results[2])


def test_activations_at_any_stride() -> None:
    x, w = random_operands(12, 90, 20)
    expected = ops.bf16_linear(x, w)
    wide = torch.zeros(24, 130, dtype=torch.bfloat16)
    wide[::2, 7:97] = x
    assert torch.equal(ops.bf16_linear(wide[::2, 7:97], w), expected)
    columns = x.t().contiguous().t()
    assert columns.stride(0) == 1
    assert torch.equal(ops.bf16_linear(columns, w), expected)
    assert torch.equal(ops.bf16_linear(x[:1].expand(12, 90), w), expected[:1].expand(12, 20))


def test_weights_at_any_address() -> None:
    x, w = random_operands(3, 90, 20)
    memory = torch.full((20 * 90 + 9,), math.nan, dtype=torch.bfloat16)
    for offset in (1, 3, 8):
        shifted = memory[offset : offset + 20 * 90].view(20, 90).copy_(w)
        assert torch.equal(ops.bf16_linear(x, shifted), ops.bf16_linear(x, w))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(st.integers(1, 20), st.integers(1, 100)),
    k=st.one_of(st.integers(1, 300), st.integers(700, 900)),
    n=st.integers(1, 60),
    padding=st.integers(0, 70),
    offset=st.integers(0, 3),
    with_bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_stride(
    rows: int, k: int, n: int, padding: int, offset: int, with_bias: bool, seed: int
) -> None:
    x, w = random_operands(rows, k, n, seed=seed)
    # What lies between the rows must not be read into them.
    wide = torch.full((rows, offset + k + padding), math.nan, dtype=torch.bfloat16)
    strided = wide[:, offset : offset + k].copy_(x)
    check(strided, w, normal(n, seed=seed + 2).float() if with_bias else None)


def wrong(**changes: object) -> dict[str, object]:
    arguments: dict[str, object] = {
        "x": torch.zeros(2, 4, dtype=torch.bfloat16),
        "w": torch.zeros(3, 4, dtype=torch.bfloat16),
        "bias": None,
        "out_dtype": torch.bfloat16,
    }
    return arguments | changes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (wrong(x=torch.zeros(2, 4)), "x must be bfloat16, got Float"),
        (wrong(w=torch.zeros(3, 4).half()), "w must be bfloat16, got Half"),
        (wrong(x=torch.zeros(8).bfloat16()), r"x must be \[tokens, in_features\]"),
        (wrong(w=torch.zeros(12).bfloat16()), r"w must be \[out_features, in_features\]"),
        (wrong(w=torch.zeros(3, 5).bfloat16()), "must agree in in_features"),
        (wrong(w=torch.zeros(4, 3).bfloat16().t()), "contiguous.*transposed back"),
        (wrong(bias=torch.ones(4)), r"bias must be float32, float16 or bfloat16 \[3\]"),
        (wrong(bias=torch.ones(3).double()), "bias must be float32, float16 or bfloat16"),
        (wrong(out_dtype=torch.float64), "out_dtype must be float32, float16 or bfloat16"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.bf16_linear(**arguments)  # type: ignore[arg-type]
