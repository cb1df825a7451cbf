"""The fused operators agree with the operators that they fuse, on every instruction set.

What may differ is the last places of a sum or of an exponential in f32, which now and then round an element
of the row to the neighbouring value: scales within a relative 1e-6, at least 99.9 % of the codes identical,
the others next to each other.
"""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet import ops
from octet.ops import reference

FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPS = 1e-6
# How far gate / 2 * (1 + tanh(u)) in f32 is from GELU, relative to the gate: far below zero tanh is a unit or
# two of 2^-24 from -1, and torch's and our tanh (each good to a unit or two) may count 2 such units where the
# other counts 3. The activation then differs by a half, but never by more than this part of the gate.
GELU_ERROR = 2.0**-23

pytestmark = pytest.mark.usefixtures("isa")
formats = pytest.mark.parametrize("fmt", FORMATS, ids=["e4m3", "e5m2"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f16", "bf16"])

Quantized = tuple[torch.Tensor, torch.Tensor]
Gated = Callable[[torch.Tensor, torch.dtype], Quantized]
GATED: list[tuple[Gated, Gated]] = [
    (ops.gelu_tanh_and_mul_quant_fp8, reference.gelu_tanh_and_mul_quant_fp8),
    (ops.silu_and_mul_quant_fp8, reference.silu_and_mul_quant_fp8),
]
gated = pytest.mark.parametrize(("fused", "unfused"), GATED, ids=["gelu_tanh", "silu"])


def ranks(codes: torch.Tensor) -> torch.Tensor:
    """Codes as numbers that count up with the value, so that neighbours differ by one."""
    bits = codes.view(torch.uint8).to(torch.int32)
    return torch.where(bits >= 128, 128 - bits, bits)


def assert_agree(actual: Quantized, expected: Quantized, slack: torch.Tensor | None = None) -> None:
    """Asserts what the module promises, but for codes whose values lie within `slack` of each other."""
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-6, atol=0.0, equal_nan=True)
    distance = (ranks(actual[0]) - ranks(expected[0])).abs()
    if slack is not None:
        values = [(q.to(torch.float32) * scale) for q, scale in (actual, expected)]
        distance = distance.masked_fill((values[0] - values[1]).abs() <= slack, 0)
    assert not (distance > 1).any()
    assert distance.count_nonzero() <= max(1, distance.numel() // 1000)


def check_gated(fused: Gated, unfused: Gated, x: torch.Tensor, fmt: torch.dtype) -> None:
    slack = None
    if unfused is reference.gelu_tanh_and_mul_quant_fp8:
        # Each is within GELU_ERROR of the exact activation, hence within twice that of the other.
        gate, up = x.to(torch.float32).tensor_split(2, dim=1)
        slack = (gate * up).abs() * (2 * GELU_ERROR)
    assert_agree(fused(x, fmt), unfused(x, fmt), slack)


def check_norm(
    x: torch.Tensor, weight: torch.Tensor, fmt: torch.dtype, residual: torch.Tensor | None = None
) -> None:
    expected_residual = None if residual is None else residual.clone()
    expected = reference.gemma_rms_norm_quant_fp8(x, weight, EPS, fmt, expected_residual)
    assert_agree(ops.gemma_rms_norm_quant_fp8(x, weight, EPS, fmt, residual), expected)
    if residual is not None and expected_residual is not None:
        torch.testing.assert_close(residual, expected_residual, rtol=0.0, atol=0.0, equal_nan=True)


def slack_of_two_norms(
    x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor], residual: torch.Tensor
) -> torch.Tensor:
    """What a last place of the first norm's result makes of the second's: it may all but cancel the
    residual.
    """
    post_weight, weight = weights
    normed = reference.gemma_rms_norm(x, post_weight, EPS).float()
    total = normed + residual.float()
    inverse_rms = torch.rsqrt(total.pow(2).mean(dim=1, keepdim=True) + EPS)
    last_place = normed.abs() * (2 * torch.finfo(x.dtype).eps)
    return last_place * inverse_rms * (1.0 + weight.float()).abs()


def check_two_norms(
    x: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor], fmt: torch.dtype, residual: torch.Tensor
) -> None:
    post_weight, weight = weights
    slack, expected_residual = slack_of_two_norms(x, weights, residual), residual.clone()
    expected = reference.gemma_norm_add_norm_quant_fp8(x, post_weight, expected_residual, weight, EPS, fmt)
    assert_agree(
        ops.gemma_norm_add_norm_quant_fp8(x, post_weight, residual, weight, EPS, fmt), expected, slack
    )
    assert_rounded_alike(residual, expected_residual)


def assert_rounded_alike(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The same but for the order of a sum of squares, which rounds one number in a thousand to its
    neighbour.
    """
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    ulp = torch.finfo(expected.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=2 * ulp, atol=16 * ulp, equal_nan=True)
    if expected.dtype != torch.float32:
        unequal = (actual != expected) & ~expected.isnan()
        assert unequal.count_nonzero() <= max(1, expected.numel() // 500)


def rows(seed: int, tokens: int, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    magnitudes = 2.0 ** torch.randint(-3, 3, (tokens, 1), generator=generator)
    return (torch.randn(tokens, hidden, generator=generator) * magnitudes).to(dtype)


def norm_weight(hidden: int, dtype: torch.dtype) -> torch.Tensor:
    return (0.3 * torch.randn(hidden, generator=torch.Generator().manual_seed(9))).to(dtype)


@formats
@dtypes
@pytest.mark.parametrize("hidden", [1152, 2560, 3840, 6912, 10240, 15360])
def test_sizes_of_models(fmt: torch.dtype, dtype: torch.dtype, hidden: int) -> None:
    x = rows(0, 4, 2 * hidden, dtype)
    weight = norm_weight(hidden, dtype)
    check_norm(x[:, :hidden], weight, fmt)
    check_norm(x[:, :hidden], weight, fmt, rows(1, 4, hidden, dtype))
    for fused, unfused in GATED:
        check_gated(fused, unfused, x, fmt)


@formats
@dtypes
def test_odd_sizes(fmt: torch.dtype, dtype: torch.dtype) -> None:
    for hidden in [*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 129]:
        x = rows(hidden, 3, 2 * hidden, dtype)
        weight = norm_weight(hidden, dtype)
        check_norm(x[:, :hidden], weight, fmt)
        check_norm(x[:, :hidden], weight, fmt, rows(1, 3, hidden, dtype))
        for fused, unfused in GATED:
            check_gated(fused, unfused, x, fmt)


@formats
@dtypes
@pytest.mark.parametrize("shape", [(0, 0), (0, 64), (3, 0)])
def test_empty(fmt: torch.dtype, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x = torch.ones(shape, dtype=dtype)
    check_norm(x, norm_weight(shape[1], dtype), fmt, torch.ones(shape, dtype=dtype))
    for fused, unfused in GATED:
        check_gated(fused, unfused, x, fmt)


@formats
@gated
def test_every_bf16_gate(fused: Gated, unfused: Gated, fmt: torch.dtype) -> None:
    # A row for each exponent, so that the smallest results decide the scales too.
    gate = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    gate = gate.view(512, 128)
    x = torch.cat([gate, torch.ones_like(gate)], dim=1)
    check_gated(fused, unfused, x, fmt)


def gelu_tanh_exactly(gate: torch.Tensor) -> torch.Tensor:
    """GELU's tanh approximation in float64, as gate * sigmoid(2u), which does not cancel."""
    gate = gate.to(torch.float64)
    return gate * torch.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (gate + 0.044715 * gate**3))


@pytest.mark.parametrize("width", [12.0, 1.5])
def test_gelu_is_within_its_bound_of_float64(width: float) -> None:
    gate = torch.linspace(-width, 0.0, 100_001)[:-1]
    # Alone in its row, and far above the least scale, a value is its scale times FMAX.
    q, scale = ops.gelu_tanh_and_mul_quant_fp8(torch.stack([gate, torch.full_like(gate, 2.0**60)], dim=1))
    fused = (q.double() * scale.double()).squeeze(1) * 2.0**-60
    unfused = torch.nn.functional.gelu(gate, approximate="tanh").double()
    for activated in (fused, unfused):
        error = (activated - gelu_tanh_exactly(gate)).abs()
        assert (error <= GELU_ERROR * gate.double().abs()).all()


@dtypes
@gated
def test_gates_far_out(fused: Gated, unfused: Gated, dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, -0.0, 100.0, -100.0, 1000.0, -1000.0, 20.0, -20.0]]).to(dtype)
    assert_agree(
        fused(torch.cat([x, torch.ones_like(x)], 1), FORMATS[0]),
        unfused(torch.cat([x, torch.ones_like(x)], 1), FORMATS[0]),
    )


@dtypes
@gated
@pytest.mark.parametrize("special", [float("inf"), float("-inf"), float("nan")])
def test_infinities_and_nan(fused: Gated, unfused: Gated, dtype: torch.dtype, special: float) -> None:
    for hidden in (100, 2000):  # long rows may take another way than short ones
        for at in (0, hidden // 2 - 10, hidden - 23, hidden - 1):
            x = rows(3, 2, hidden, dtype)
            x[0, at] = special
            check_gated(fused, unfused, x, FORMATS[0])
            check_norm(x, norm_weight(hidden, dtype), FORMATS[0])
            check_norm(x, norm_weight(hidden, dtype), FORMATS[0], rows(4, 2, hidden, dtype))


@formats
@gated
def test_every_bf16_gate_in_long_rows(fused: Gated, unfused: Gated, fmt: torch.dtype) -> None:
    gate = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    gate = gate.view(512, 128).repeat_interleave(5, dim=1)  # a row for each exponent
    x = torch.cat([gate, torch.ones_like(gate)], dim=1)
    check_gated(fused, unfused, x, fmt)


@pytest.mark.parametrize(
    ("fused", "activation", "beside", "ties"),
    [
        # Its tanh leaves so few digits there that the activation lies halfway between numbers of bf16.
        (ops.gelu_tanh_and_mul_quant_fp8, torch.nn.GELU(approximate="tanh"), None, {-4.90625}),
        (ops.silu_and_mul_quant_fp8, torch.nn.SiLU(), None, set()),
        # A gate far below zero may take its neighbours another way.
        (ops.silu_and_mul_quant_fp8, torch.nn.SiLU(), -16.0, set()),
    ],
    ids=["gelu_tanh", "silu", "silu_far_below_zero"],
)
def test_activations_of_bf16_gates_are_torchs(
    fused: Gated, activation: torch.nn.Module, beside: float | None, ties: set[float]
) -> None:
    gate = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    gate = gate[gate.isfinite()]
    # Far above the least scale, and finite.
    up = torch.where(gate.abs() < 2.0**7, 2.0**100, 1.0).to(torch.bfloat16)
    expected = reference.per_token_quant_fp8((activation(gate) * up).unsqueeze(1))[1]
    # Alone in its row, an activation decides the scale; in long rows, for they may take another way.
    chunks = zip(torch.split(gate, 4096), torch.split(up, 4096), strict=True)
    scales = []
    for pair in chunks:
        x = torch.stack(pair, dim=1).repeat_interleave(512, dim=1)
        if beside is not None:
            x[:, :512:64], x[:, 512::64] = beside, 0.0
        scales.append(fused(x, FORMATS[0])[1])
    actual = torch.cat(scales)
    assert set(gate[(actual != expected).squeeze(1)].tolist()) <= ties
    torch.testing.assert_close(actual, expected, rtol=2.0**-7, atol=0.0)


@gated
def test_a_few_gates_far_below_zero(fused: Gated, unfused: Gated) -> None:
    x = rows(11, 3, 4000, torch.bfloat16)
    x[:, 5:2000:300] = torch.tensor([-15.0, -15.0625, -16.0, -40.0, -88.5, -89.0, -1e30])
    x[2, :2000] -= 16.0
    for fmt in FORMATS:
        check_gated(fused, unfused, x, fmt)


def test_denormal_sums_with_the_residual_are_kept() -> None:
    # Sums of multiples of bf16's smallest number, which some conversions to bf16 take for zero.
    count = torch.arange(1000, dtype=torch.float32) % 100
    x = (count * 2.0**-133).to(torch.bfloat16).unsqueeze(0)
    residual = (torch.flip(count, [0]) * -(2.0**-133)).to(torch.bfloat16).unsqueeze(0)
    assert (x.float() + residual.float()).count_nonzero() > 900
    check_norm(x, norm_weight(1000, torch.bfloat16), FORMATS[0], residual)


def test_denormal_sums_of_larger_numbers_are_kept() -> None:
    # In each row the neighbours in bf16 of one power of two, less the power: denormals up to some row.
    exponents = torch.arange(-126, -100, dtype=torch.float32).unsqueeze(1)
    residual = (2.0**exponents).to(torch.bfloat16).repeat(1, 640)
    steps = torch.arange(640, dtype=torch.int16) % 16 - 8
    x = -(residual.view(torch.int16) + steps).view(torch.bfloat16)
    sums = (x.float() + residual.float()).abs()
    assert ((sums > 0.0) & (sums < 2.0**-126)).any(dim=1).sum() > 5
    check_norm(x, norm_weight(640, torch.bfloat16), FORMATS[0], residual)


@formats
@gated
def test_products_that_become_subnormal_codes(fused: Gated, unfused: Gated, fmt: torch.dtype) -> None:
    # One large product, and the others so small that all, or few, of a row's codes are subnormal.
    for magnitude in (1e-5, 1e-3, 0.03):
        x = rows(10, 3, 4000, torch.bfloat16) * magnitude
        x[:, 0], x[:, 2000] = 8.0, 8.0
        check_gated(fused, unfused, x, fmt)


@formats
@dtypes
@pytest.mark.parametrize("hidden", [1152, 2560, 3840, 5376, 10240])
def test_two_norms_of_models(fmt: torch.dtype, dtype: torch.dtype, hidden: int) -> None:
    weights = norm_weight(hidden, dtype), norm_weight(hidden, dtype).flip(0)
    check_two_norms(rows(0, 4, hidden, dtype), weights, fmt, rows(1, 4, hidden, dtype))


@formats
@dtypes
def test_two_norms_of_odd_sizes(fmt: torch.dtype, dtype: torch.dtype) -> None:
    for hidden in [*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 129, 1000, 1001]:
        weights = norm_weight(hidden, dtype), norm_weight(hidden, dtype).flip(0)
        check_two_norms(rows(hidden, 3, hidden, dtype), weights, fmt, rows(1, 3, hidden, dtype))


@formats
@dtypes
@pytest.mark.parametrize("shape", [(0, 0), (0, 64), (3, 0)])
def test_two_norms_of_nothing(fmt: torch.dtype, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    weight = norm_weight(shape[1], dtype)
    check_two_norms(torch.ones(shape, dtype=dtype), (weight, weight), fmt, torch.ones(shape, dtype=dtype))


@formats
@dtypes
def test_two_norms_are_the_operators_that_they_fuse(fmt: torch.dtype, dtype: torch.dtype) -> None:
    """Bit for bit, where both sum in the same order, as the kernels of a CPU do."""
    for hidden in (40, 1152, 3840):
        x, residual = rows(2, 5, hidden, dtype), rows(3, 5, hidden, dtype)
        post_weight, weight = norm_weight(hidden, dtype).flip(0), norm_weight(hidden, dtype)
        expected_residual = residual.clone()
        normed = ops.gemma_rms_norm(x, post_weight, EPS)
        expected = ops.gemma_rms_norm_quant_fp8(normed, weight, EPS, fmt, expected_residual)
        actual = ops.gemma_norm_add_norm_quant_fp8(x, post_weight, residual, weight, EPS, fmt)
        assert torch.equal(residual, expected_residual)
        for got, want in zip(actual, expected, strict=True):
            assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))


@dtypes
@pytest.mark.parametrize("special", [float("inf"), float("-inf"), float("nan")])
def test_two_norms_of_infinities_and_nan(dtype: torch.dtype, special: float) -> None:
    for hidden in (50, 1000):
        for at in (0, hidden // 2, hidden - 1):
            x, residual = rows(3, 2, hidden, dtype), rows(4, 2, hidden, dtype)
            x[0, at], residual[1, at] = special, special
            check_two_norms(x, (norm_weight(hidden, dtype),) * 2, FORMATS[0], residual)


def test_two_norms_write_the_residual_and_nothing_else() -> None:
    buffer = torch.full((5, 100), 7.0, dtype=torch.bfloat16)
    x, weight = rows(7, 5, 61, torch.bfloat16), norm_weight(61, torch.bfloat16)
    before = x.clone()
    ops.gemma_norm_add_norm_quant_fp8(x, weight, buffer[:, 9:70], weight, EPS)
    assert torch.equal(x, before)
    assert (buffer[:, :9] == 7.0).all()
    assert (buffer[:, 70:] == 7.0).all()
    assert (buffer[:, 9:70] != 7.0).any()


@dtypes
@pytest.mark.parametrize("hidden", [1, 5, 31, 64, 256, 1152, 3840])
def test_plain_norm(dtype: torch.dtype, hidden: int) -> None:
    """Of tokens, and of heads that lie in the output of a larger projection, as q and k do."""
    weight = norm_weight(hidden, dtype)
    wide = rows(5, 6, 4 * hidden + 7, dtype)
    for x in (wide[:, 3 : 3 + hidden], wide[:, 5 : 5 + 3 * hidden].unflatten(1, (3, hidden))):
        actual = ops.gemma_rms_norm(x, weight, EPS)
        assert actual.is_contiguous()
        assert_rounded_alike(actual, reference.gemma_rms_norm(x, weight, EPS))


@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (0, 4, 64), (3, 0, 64), (3, 4, 0)])
def test_plain_norm_of_nothing(shape: tuple[int, ...]) -> None:
    assert ops.gemma_rms_norm(torch.ones(shape), torch.ones(shape[-1]), EPS).shape == shape


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_norms_on_any_number_of_threads(count: int) -> None:
    x, weight = rows(8, 90, 2000, torch.bfloat16), norm_weight(2000, torch.bfloat16)
    torch.set_num_threads(count)
    check_two_norms(x, (weight, weight.flip(0)), FORMATS[0], rows(9, 90, 2000, torch.bfloat16))
    heads = x.view(90, 8, 250)
    weight = norm_weight(250, torch.bfloat16)
    assert_rounded_alike(ops.gemma_rms_norm(heads, weight, EPS), reference.gemma_rms_norm(heads, weight, EPS))


def vllm_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Quantized:
    """The normed rows and the new residual as vLLM 0.32 computes and rounds them.

    Step for step ``GemmaRMSNorm.forward_native`` with the native ``fused_add_rms_norm`` that it calls, where
    ``total`` keeps its float32 through the norm.
    """
    gain = weight.float() + 1.0
    total = x.to(torch.float32) + residual.to(torch.float32)
    variance = total.pow(2).mean(dim=-1, keepdim=True)
    normed = total * torch.rsqrt(variance + EPS)
    return (normed.to(gain.dtype) * gain).to(x.dtype), total.to(x.dtype)


@formats
@dtypes
def test_norm_with_a_residual_rounds_where_vllm_does(fmt: torch.dtype, dtype: torch.dtype) -> None:
    x, residual, weight = rows(5, 4, 3840, dtype), rows(6, 4, 3840, dtype), norm_weight(3840, dtype)
    normed, total = vllm_norm(x, residual, weight)
    actual = ops.gemma_rms_norm_quant_fp8(x, weight, EPS, fmt, residual)
    assert torch.equal(residual, total)
    assert_agree(actual, reference.per_token_quant_fp8(normed, fmt))


@formats
def test_norm_does_not_round_the_sum_first(fmt: torch.dtype) -> None:
    x, residual = rows(5, 4, 3840, torch.bfloat16), rows(6, 4, 3840, torch.bfloat16)
    weight = norm_weight(3840, torch.bfloat16)
    vllm = reference.per_token_quant_fp8(vllm_norm(x, residual, weight)[0], fmt)
    rounded_first = reference.gemma_rms_norm_quant_fp8(x + residual, weight, EPS, fmt)
    # Unlike in more codes than the order of a sum explains, so that assert_agree tells the two apart.
    assert (ranks(vllm[0]) != ranks(rounded_first[0])).sum() > x.numel() // 200
    assert_agree(ops.gemma_rms_norm_quant_fp8(x, weight, EPS, fmt, residual), vllm)


def test_residual_rows_are_written_and_nothing_else() -> None:
    buffer = torch.full((5, 100), 7.0, dtype=torch.bfloat16)
    x = rows(7, 5, 61, torch.bfloat16)
    ops.gemma_rms_norm_quant_fp8(x, norm_weight(61, torch.bfloat16), EPS, residual=buffer[:, 9:70])
    assert torch.equal(buffer[:, 9:70], x + 7.0)
    assert (buffer[:, :9] == 7.0).all()
    assert (buffer[:, 70:] == 7.0).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(0, 5),
    hidden=st.integers(0, 300),
    offset=st.integers(0, 40),
    spare=st.integers(0, 40),
    dtype=st.sampled_from(DTYPES),
    fmt=st.sampled_from(FORMATS),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_stride(
    tokens: int, hidden: int, offset: int, spare: int, dtype: torch.dtype, fmt: torch.dtype, seed: int
) -> None:
    x = rows(seed, tokens, offset + 2 * hidden + spare, dtype)[:, offset : offset + 2 * hidden]
    residual = rows(seed + 1, tokens, spare + hidden + offset, dtype)[:, spare : spare + hidden]
    check_norm(x[:, :hidden], norm_weight(hidden, dtype), fmt, residual)
    for fused, unfused in GATED:
        check_gated(fused, unfused, x, fmt)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_thread_counts(count: int) -> None:
    x, residual = rows(8, 80, 2000, torch.bfloat16), rows(9, 80, 2000, torch.bfloat16)
    torch.set_num_threads(count)
    check_norm(x, norm_weight(2000, torch.bfloat16), FORMATS[0], residual)
    for fused, unfused in GATED:
        check_gated(fused, unfused, x, FORMATS[0])


X, W = torch.ones(2, 4), torch.ones(4)


@pytest.mark.parametrize(
    ("x", "weight", "residual", "message"),
    [
        (torch.ones(4), W, None, r"x must be \[tokens, hidden\]"),
        (X, W.half(), None, "weight must have the dtype of x"),
        (X, torch.ones(3), None, r"weight must be a contiguous \[4\]"),
        (X, torch.ones(8)[::2], None, r"weight must be a contiguous \[4\]"),
        (X, W, torch.ones(2, 4).half(), "residual must have the dtype of x"),
        (X, W, torch.ones(3, 4), "residual must have the shape of x"),
        (X, W, torch.ones(4, 2).t(), "residual must be adjacent in memory"),
        (X, W, torch.ones(1, 4).expand(2, 4), "must not share memory"),
    ],
)
def test_wrong_arguments_of_the_norm(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.gemma_rms_norm_quant_fp8(x, weight, EPS, residual=residual)


@gated
def test_wrong_arguments_of_the_activations(fused: Gated, unfused: Gated) -> None:
    with pytest.raises(RuntimeError, match=r"x must be \[tokens, 2 \* hidden\]"):
        fused(torch.ones(2, 5), FORMATS[0])
    with pytest.raises(RuntimeError, match="x must be float32, float16 or bfloat16"):
        fused(torch.ones(2, 4).double(), FORMATS[0])
    with pytest.raises(RuntimeError, match=r"dtype must be torch.float8_e4m3fn or"):
        fused(torch.ones(2, 4), torch.float16)


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.ones(4), W, r"x must be \[tokens, hidden\] or \[tokens, heads, hidden\], got 1"),
        (torch.ones(1, 1, 2, 4), W, "got 4 dimensions"),
        (X.double(), W, "x must be float32, float16 or bfloat16"),
        (torch.ones(4, 2).t(), torch.ones(2).repeat(2), "must be adjacent in memory"),
        (X, W.half(), "weight must have the dtype of x"),
        (torch.ones(2, 3, 4), torch.ones(3), r"weight must be a contiguous \[4\]"),
    ],
)
def test_wrong_arguments_of_the_plain_norm(x: torch.Tensor, weight: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.gemma_rms_norm(x, weight, EPS)


@pytest.mark.parametrize(
    ("post_weight", "residual", "weight", "message"),
    [
        (torch.ones(3), X.clone(), W, r"post_weight must be a contiguous \[4\]"),
        (W.half(), X.clone(), W, "post_weight must have the dtype of x"),
        (W, X.clone(), torch.ones(3), r"^weight must be a contiguous \[4\]"),
        (W, X.half(), W, "residual must have the dtype of x"),
        (W, torch.ones(1, 4).expand(2, 4), W, "must not share memory"),
    ],
)
def test_wrong_arguments_of_two_norms(
    post_weight: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.gemma_norm_add_norm_quant_fp8(X, post_weight, residual, weight, EPS)
