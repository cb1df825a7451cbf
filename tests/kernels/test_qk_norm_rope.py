"""Norm and rotation of queries and keys in one operator agree with the norm and the rotation alone.

What may differ is the last place of a sum of squares, which now and then rounds an element to its neighbour.
"""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet import ops
from octet.ops import reference
from tests.kernels.test_fused_quant import DTYPES, EPS, assert_rounded_alike, dtypes, norm_weight, rows

pytestmark = pytest.mark.usefixtures("isa")

POSITIONS = 50


def table(rotary_dim: int, dtype: torch.dtype, positions: int = POSITIONS) -> torch.Tensor:
    """Cosines and sines as vLLM's rotary embedding has them, [positions, rotary_dim]."""
    frequencies = 10000.0 ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float32) / max(rotary_dim, 1))
    angles = torch.arange(positions, dtype=torch.float32).unsqueeze(1) * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1).to(dtype)


def some_positions(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, POSITIONS, (tokens,), generator=torch.Generator().manual_seed(seed))


def check(qkv: torch.Tensor, weights: tuple[Any, Any], gemma: bool, shape: tuple[int, int, int, int]) -> None:
    """`shape` is of q_heads, k_heads, head_size and rotary_dim."""
    q_heads, k_heads, head_size, rotary_dim = shape
    positions = some_positions(len(qkv))
    cos_sin = table(rotary_dim, qkv.dtype)
    before, expected = qkv.clone(), qkv.clone()
    reference.qk_norm_rope(expected, *weights, EPS, gemma, positions, cos_sin, q_heads, k_heads, head_size)
    ops.qk_norm_rope(qkv, *weights, EPS, gemma, positions, cos_sin, q_heads, k_heads, head_size)
    heads = (q_heads + k_heads) * head_size
    if weights[0] is None and weights[1] is None and qkv.dtype != torch.float32:
        assert torch.equal(qkv[:, :heads], expected[:, :heads])  # products of halves are exact in f32
    assert_rounded_alike(qkv[:, :heads], expected[:, :heads])
    assert torch.equal(qkv[:, heads:], before[:, heads:])


@dtypes
@pytest.mark.parametrize("gemma", [False, True], ids=["plain", "gemma"])
@pytest.mark.parametrize(
    "shape",
    [
        (4, 1, 256, 256),
        (8, 4, 256, 256),
        (16, 8, 128, 128),
        (14, 2, 64, 64),
        (32, 8, 128, 64),
        (4, 2, 96, 24),
    ],
    ids=["gemma-1b", "gemma-4b", "qwen3", "qwen2-0.5b", "half", "quarter"],
)
def test_heads_of_models(dtype: torch.dtype, gemma: bool, shape: tuple[int, int, int, int]) -> None:
    q_heads, k_heads, head_size, _ = shape
    width = (q_heads + 2 * k_heads) * head_size
    q_weight = norm_weight(head_size, dtype) + (not gemma)
    for weights in ((q_weight, q_weight.flip(0)), (None, None), (q_weight, None), (None, q_weight)):
        check(rows(1, 7, width, dtype), weights, gemma, shape)


@dtypes
def test_odd_sizes(dtype: torch.dtype) -> None:
    for head_size in [*range(1, 20), 31, 33, 63, 65, 129]:
        weight = norm_weight(head_size, dtype)
        for rotary_dim in {0, 2, head_size // 2 // 2 * 2, head_size // 2 * 2}:
            if rotary_dim <= head_size:
                check(
                    rows(2, 3, 4 * head_size + 5, dtype),
                    (weight, weight),
                    True,
                    (2, 1, head_size, rotary_dim),
                )


@dtypes
@pytest.mark.parametrize("shape", [(0, 2, 1, 8), (3, 0, 1, 8), (3, 2, 0, 8), (3, 0, 0, 8), (3, 2, 1, 0)])
def test_nothing(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    tokens, q_heads, k_heads, head_size = shape
    qkv, weight = torch.ones(tokens, 32, dtype=dtype), torch.ones(head_size, dtype=dtype)
    check(qkv, (weight, weight), True, (q_heads, k_heads, head_size, head_size))


@dtypes
@pytest.mark.parametrize("special", [float("inf"), float("-inf"), float("nan")])
def test_infinities_and_nan(dtype: torch.dtype, special: float) -> None:
    """They make a head what they make of it apart, and no other one anything."""
    qkv = rows(3, 2, 3 * 64, dtype)
    qkv[0, 70] = special
    weight = norm_weight(64, dtype)
    check(qkv, (weight, weight), True, (2, 1, 64, 64))
    assert qkv[:, :64].isfinite().all()
    assert qkv[1].isfinite().all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(0, 5),
    q_heads=st.integers(0, 4),
    k_heads=st.integers(0, 3),
    head_size=st.integers(2, 150),
    quarters=st.integers(0, 4),
    offset=st.integers(0, 9),
    spare=st.integers(0, 40),
    normed=st.booleans(),
    gemma=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_stride(
    tokens: int,
    q_heads: int,
    k_heads: int,
    head_size: int,
    quarters: int,
    offset: int,
    spare: int,
    normed: bool,
    gemma: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    width = (q_heads + k_heads) * head_size + spare + 1
    buffer = rows(seed, tokens, offset + width + 3, dtype)
    outside = torch.cat((buffer[:, :offset], buffer[:, offset + width :]), dim=1)
    weight = norm_weight(head_size, dtype) + (not gemma) if normed else None
    rotary_dim = head_size * quarters // 4 // 2 * 2
    if head_size <= width:
        check(
            buffer[:, offset : offset + width],
            (weight, weight),
            gemma,
            (q_heads, k_heads, head_size, rotary_dim),
        )
    assert torch.equal(torch.cat((buffer[:, :offset], buffer[:, offset + width :]), dim=1), outside)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_thread_counts(count: int) -> None:
    torch.set_num_threads(count)
    weight = norm_weight(128, torch.bfloat16)
    check(rows(8, 90, 24 * 128, torch.bfloat16), (weight, weight.flip(0)), False, (16, 4, 128, 128))


def vllm_rotation(qkv: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """Three heads of 64 as vLLM's own operator for CPUs rotates them."""
    from vllm import _custom_ops

    q, k = qkv[:, :128].contiguous(), qkv[:, 128:192].contiguous()
    _custom_ops.rotary_embedding(positions, q, k, 64, cos_sin, True)
    return torch.cat((q, k), dim=1)


@pytest.mark.parametrize("rotary_dim", [64, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_it_rotates_as_vllm_does(dtype: torch.dtype, rotary_dim: int) -> None:
    qkv, positions, cos_sin = rows(9, 12, 4 * 64, dtype), some_positions(12), table(rotary_dim, dtype)
    expected = vllm_rotation(qkv, positions, cos_sin)
    ops.qk_norm_rope(qkv, None, None, EPS, False, positions, cos_sin, 2, 1, 64)
    torch.testing.assert_close(qkv[:, :192], expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


QKV, COS_SIN, AT = torch.ones(2, 32), torch.ones(9, 8), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qkv": torch.ones(32)}, r"qkv must be \[tokens, heads \* head_size\], got 1"),
        ({"qkv": QKV.double()}, "qkv must be float32, float16 or bfloat16"),
        ({"qkv": torch.ones(32, 2).t()}, "must be adjacent in memory"),
        ({"qkv": torch.ones(1, 32).expand(2, 32)}, "must not share memory"),
        ({"qkv": torch.ones(2, 23)}, r"qkv must have 2 \+ 1 heads of 8"),
        ({"q_heads": 2**62, "k_heads": 2**62}, "qkv must have"),
        ({"q_heads": -1}, "must not be negative"),
        ({"q_weight": torch.ones(7)}, r"q_weight must be a contiguous \[8\]"),
        ({"k_weight": torch.ones(8).half()}, "k_weight must have the dtype of qkv"),
        ({"positions": AT.int()}, r"positions must be a contiguous int64 \[2\]"),
        ({"positions": torch.zeros(3, 2, dtype=torch.int64)}, "positions must be"),
        ({"positions": AT + 9}, r"positions must lie in \[0, 9\)"),
        ({"positions": AT - 1}, r"positions must lie in \[0, 9\)"),
        ({"cos_sin": COS_SIN.half()}, r"cos_sin must be .* \[positions, rotary_dim\]"),
        ({"cos_sin": torch.ones(9, 7)}, "even"),
        ({"cos_sin": torch.ones(9, 10)}, "at most 8"),
        ({"cos_sin": torch.ones(8, 9).t()[:, :8]}, "elements of a row of cos_sin must be adjacent in memory"),
    ],
)
def test_wrong_arguments(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"qkv": QKV.clone(), "q_weight": None, "k_weight": None, "eps": EPS}
    arguments |= {"gemma": True, "positions": AT, "cos_sin": COS_SIN, "q_heads": 2, "k_heads": 1}
    with pytest.raises(RuntimeError, match=message):
        ops.qk_norm_rope(**(arguments | {"head_size": 8} | changed))
