"""The norm of Llama, Qwen and Mistral with quantization agrees with the two operators that it fuses."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet import ops
from octet.ops import reference
from tests.kernels.test_fused_quant import (
    DTYPES,
    EPS,
    FORMATS,
    Quantized,
    assert_agree,
    dtypes,
    formats,
    norm_weight,
    ranks,
    rows,
)

pytestmark = pytest.mark.usefixtures("isa")

# A weight is a factor here, and around one in models.
ONE = 1.0


def weight_of(hidden: int, dtype: torch.dtype) -> torch.Tensor:
    return norm_weight(hidden, dtype) + ONE


def check(
    x: torch.Tensor, weight: torch.Tensor, fmt: torch.dtype, residual: torch.Tensor | None = None
) -> None:
    before = x.clone()
    expected_residual = None if residual is None else residual.clone()
    slack = slack_of_a_rounding(x, weight, residual)
    expected = reference.rms_norm_quant_fp8(x, weight, EPS, fmt, expected_residual)
    assert_agree(ops.rms_norm_quant_fp8(x, weight, EPS, fmt, residual), expected, slack)
    assert torch.equal(x.nan_to_num(), before.nan_to_num())
    if residual is not None and expected_residual is not None:
        torch.testing.assert_close(residual, expected_residual, rtol=0.0, atol=0.0, equal_nan=True)


def slack_of_a_rounding(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    """What a last place of the normed row makes of its product with the weight: two places of the dtype.

    Where FP8 codes lie closer than that, as those of E4M3 below their normal numbers do not but for large
    rows, it is more than a code.
    """
    total = x.float() + (0.0 if residual is None else residual.float())
    normed = total * torch.rsqrt(total.pow(2).mean(dim=1, keepdim=True) + EPS)
    return (normed * weight.float()).abs().nan_to_num() * (2 * torch.finfo(x.dtype).eps)


@formats
@dtypes
@pytest.mark.parametrize("hidden", [1024, 2048, 3072, 4096, 5120, 8192])
def test_sizes_of_models(fmt: torch.dtype, dtype: torch.dtype, hidden: int) -> None:
    x, weight = rows(0, 4, hidden, dtype), weight_of(hidden, dtype)
    check(x, weight, fmt)
    check(x, weight, fmt, rows(1, 4, hidden, dtype))


@formats
@dtypes
def test_odd_sizes(fmt: torch.dtype, dtype: torch.dtype) -> None:
    for hidden in [*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 129, 511, 513, 577, 1001]:
        x, weight = rows(hidden, 3, hidden, dtype), weight_of(hidden, dtype)
        check(x, weight, fmt)
        check(x, weight, fmt, rows(1, 3, hidden, dtype))


@formats
@dtypes
@pytest.mark.parametrize("shape", [(0, 0), (0, 64), (3, 0)])
def test_empty(fmt: torch.dtype, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x = torch.ones(shape, dtype=dtype)
    check(x, weight_of(shape[1], dtype), fmt)
    check(x, weight_of(shape[1], dtype), fmt, torch.ones(shape, dtype=dtype))


@dtypes
@pytest.mark.parametrize("special", [float("inf"), float("-inf"), float("nan")])
def test_infinities_and_nan(dtype: torch.dtype, special: float) -> None:
    for hidden in (100, 2000):
        for at in (0, hidden // 2 - 10, hidden - 23, hidden - 1):
            x = rows(3, 2, hidden, dtype)
            x[0, at] = special
            check(x, weight_of(hidden, dtype), FORMATS[0])
            check(x, weight_of(hidden, dtype), FORMATS[0], rows(4, 2, hidden, dtype))


def vllm_norm(x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
    """The normed rows as vLLM 0.32's ``RMSNorm`` computes and rounds them in eager mode, by vLLM itself."""
    from vllm.ir.ops import layernorm

    if residual is None:
        return layernorm.rms_norm.impls["native"].impl_fn(x, weight, EPS)  # type: ignore[no-any-return]
    native = layernorm.fused_add_rms_norm.impls["native"].impl_fn
    return native(x, residual, weight, EPS)[0]  # type: ignore[no-any-return]


@formats
@dtypes
@pytest.mark.parametrize("with_residual", [False, True])
def test_it_rounds_where_vllm_does(fmt: torch.dtype, dtype: torch.dtype, with_residual: bool) -> None:
    x, weight = rows(5, 4, 4096, dtype), weight_of(4096, dtype)
    residual = rows(6, 4, 4096, dtype) if with_residual else None
    expected = reference.per_token_quant_fp8(vllm_norm(x, residual, weight), fmt)
    assert_agree(ops.rms_norm_quant_fp8(x, weight, EPS, fmt, residual), expected)


@formats
def test_the_row_is_rounded_before_it_is_multiplied(fmt: torch.dtype) -> None:
    """Unlike Gemma's; in more codes than the order of a sum explains, so that the tests tell them apart."""
    x, weight = rows(5, 4, 4096, torch.bfloat16), weight_of(4096, torch.bfloat16)
    ours = ops.rms_norm_quant_fp8(x, weight, EPS, fmt)[0]
    once = reference.per_token_quant_fp8(
        (reference.rms_norm(x.float(), weight.float(), EPS)).to(torch.bfloat16), fmt
    )
    assert (ranks(ours) != ranks(once[0])).sum() > x.numel() // 200


def test_rows_of_the_residual_are_written_and_nothing_else() -> None:
    buffer = torch.full((5, 100), 7.0, dtype=torch.bfloat16)
    x = rows(7, 5, 61, torch.bfloat16)
    ops.rms_norm_quant_fp8(x, weight_of(61, torch.bfloat16), EPS, residual=buffer[:, 9:70])
    assert torch.equal(buffer[:, 9:70], x + 7.0)
    assert (buffer[:, :9] == 7.0).all()
    assert (buffer[:, 70:] == 7.0).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(0, 5),
    hidden=st.integers(0, 700),
    offset=st.integers(0, 40),
    spare=st.integers(0, 40),
    dtype=st.sampled_from(DTYPES),
    fmt=st.sampled_from(FORMATS),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_stride(
    tokens: int, hidden: int, offset: int, spare: int, dtype: torch.dtype, fmt: torch.dtype, seed: int
) -> None:
    x = rows(seed, tokens, offset + hidden + spare, dtype)[:, offset : offset + hidden]
    residual = rows(seed + 1, tokens, spare + hidden + offset, dtype)[:, spare : spare + hidden]
    check(x, weight_of(hidden, dtype), fmt)
    check(x, weight_of(hidden, dtype), fmt, residual)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_thread_counts(count: int) -> None:
    torch.set_num_threads(count)
    x, residual = rows(8, 90, 2000, torch.bfloat16), rows(9, 90, 2000, torch.bfloat16)
    check(x, weight_of(2000, torch.bfloat16), FORMATS[0], residual)


def test_wrong_arguments() -> None:
    def quantize(weight: torch.Tensor, residual: torch.Tensor | None = None) -> Quantized:
        return ops.rms_norm_quant_fp8(torch.ones(2, 4), weight, EPS, residual=residual)

    with pytest.raises(RuntimeError, match=r"weight must be a contiguous \[4\]"):
        quantize(torch.ones(3))
    with pytest.raises(RuntimeError, match="weight must have the dtype of x"):
        quantize(torch.ones(4).half())
    with pytest.raises(RuntimeError, match="residual must have the shape of x"):
        quantize(torch.ones(4), torch.ones(3, 4))
