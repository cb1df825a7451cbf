"""The operators as torch sees them: schemas, fake kernels, tracing."""

import re
from pathlib import Path

import pytest
import torch

from octet import ops

QUANT = torch.ops.octet.per_token_quant_fp8.default
QUANT_OUT = torch.ops.octet.per_token_quant_fp8_out.default
PLAIN_NORM = torch.ops.octet.gemma_rms_norm.default
TWO_NORMS = torch.ops.octet.gemma_norm_add_norm_quant_fp8.default
NORM = torch.ops.octet.gemma_rms_norm_quant_fp8.default
GELU = torch.ops.octet.gelu_tanh_and_mul_quant_fp8.default
LLAMA_NORM = torch.ops.octet.rms_norm_quant_fp8.default
ROPE = torch.ops.octet.qk_norm_rope.default
SILU = torch.ops.octet.silu_and_mul_quant_fp8.default
LINEAR = torch.ops.octet.fp8_linear.default
BF16 = torch.ops.octet.bf16_linear.default
OPERATORS = (QUANT, QUANT_OUT, PLAIN_NORM, TWO_NORMS, NORM, LLAMA_NORM, ROPE, GELU, SILU, LINEAR, BF16)


@pytest.fixture(autouse=True)
def comparable_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets opcheck's schema check see whether FP8 arguments were written to.

    It compares them with torch.allclose, which torch does not implement for FP8.
    """
    allclose = torch.allclose

    def allclose_or_same_codes(a: torch.Tensor, b: torch.Tensor, equal_nan: bool = False) -> bool:
        if a.dtype.is_floating_point and a.dtype.itemsize == 1:
            return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        return allclose(a, b, equal_nan=equal_nan)

    monkeypatch.setattr(torch, "allclose", allclose_or_same_codes)


def test_schemas() -> None:
    assert [str(op._schema) for op in OPERATORS] == [
        "octet::per_token_quant_fp8(Tensor x, ScalarType dtype, Tensor? scale_ub=None)"
        " -> (Tensor q, Tensor scale)",
        "octet::per_token_quant_fp8_out(Tensor x, Tensor? scale_ub, *, Tensor(a!) q, Tensor(b!) scale) -> ()",
        "octet::gemma_rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
        "octet::gemma_norm_add_norm_quant_fp8(Tensor x, Tensor post_weight, Tensor(a!) residual,"
        " Tensor weight, float eps, ScalarType dtype) -> (Tensor q, Tensor scale)",
        "octet::gemma_rms_norm_quant_fp8(Tensor x, Tensor weight, float eps, ScalarType dtype,"
        " Tensor(a!)? residual=None) -> (Tensor q, Tensor scale)",
        "octet::rms_norm_quant_fp8(Tensor x, Tensor weight, float eps, ScalarType dtype,"
        " Tensor(a!)? residual=None) -> (Tensor q, Tensor scale)",
        "octet::qk_norm_rope(Tensor(a!) qkv, Tensor? q_weight, Tensor? k_weight, float eps, bool gemma,"
        " Tensor positions, Tensor cos_sin, int q_heads, int k_heads, int head_size) -> ()",
        "octet::gelu_tanh_and_mul_quant_fp8(Tensor x, ScalarType dtype) -> (Tensor q, Tensor scale)",
        "octet::silu_and_mul_quant_fp8(Tensor x, ScalarType dtype) -> (Tensor q, Tensor scale)",
        "octet::fp8_linear(Tensor xq, Tensor x_scale, Tensor w, Tensor w_scale, Tensor? bias,"
        " ScalarType out_dtype) -> Tensor",
        "octet::bf16_linear(Tensor x, Tensor w, Tensor? bias, ScalarType out_dtype) -> Tensor",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 64), (0, 8)])
def test_opcheck_per_token_quant(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x = torch.randn(shape).to(dtype)
    torch.library.opcheck(QUANT, (x, torch.float8_e4m3fn))
    torch.library.opcheck(QUANT, (x, torch.float8_e5m2, torch.tensor(0.5)))


def test_opcheck_per_token_quant_of_strided_rows() -> None:
    torch.library.opcheck(QUANT, (torch.randn(3, 100)[:, 5:70], torch.float8_e4m3fn))


def test_opcheck_per_token_quant_out() -> None:
    outputs = {"q": torch.empty(3, 64, dtype=torch.float8_e4m3fn), "scale": torch.empty(3, 1)}
    torch.library.opcheck(QUANT_OUT, (torch.randn(3, 64), None), outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 64), (0, 8)])
def test_opcheck_fused_quant(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, weight = torch.randn(shape).to(dtype), torch.randn(shape[1]).to(dtype)
    torch.library.opcheck(NORM, (x, weight, 1e-6, torch.float8_e4m3fn))
    torch.library.opcheck(NORM, (x, weight, 1e-6, torch.float8_e5m2, torch.ones(shape, dtype=dtype)))
    torch.library.opcheck(LLAMA_NORM, (x, weight, 1e-6, torch.float8_e4m3fn))
    torch.library.opcheck(LLAMA_NORM, (x, weight, 1e-6, torch.float8_e5m2, torch.ones(shape, dtype=dtype)))
    torch.library.opcheck(PLAIN_NORM, (x, weight, 1e-6))
    torch.library.opcheck(PLAIN_NORM, (x.expand(2, *shape).transpose(0, 1), weight, 1e-6))
    torch.library.opcheck(
        TWO_NORMS, (x, weight, torch.ones(shape, dtype=dtype), -weight, 1e-6, torch.float8_e4m3fn)
    )
    torch.library.opcheck(GELU, (x, torch.float8_e4m3fn))
    torch.library.opcheck(SILU, (x, torch.float8_e5m2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens", [3, 0])
def test_opcheck_qk_norm_rope(dtype: torch.dtype, tokens: int) -> None:
    qkv, weight, cos_sin = (torch.randn(shape).to(dtype) for shape in ((tokens, 64), (16,), (5, 8)))
    for weights in ((weight, -weight), (None, None)):
        torch.library.opcheck(
            ROPE, (qkv.clone(), *weights, 1e-6, True, torch.arange(tokens), cos_sin, 2, 1, 16)
        )


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_opcheck_fp8_linear(out_dtype: torch.dtype) -> None:
    xq, x_scale = ops.per_token_quant_fp8(torch.randn(3, 64))
    w, w_scale = ops.per_token_quant_fp8(torch.randn(5, 64))
    torch.library.opcheck(LINEAR, (xq, x_scale, w, w_scale, None, out_dtype))
    torch.library.opcheck(LINEAR, (xq, x_scale, w, w_scale, torch.randn(5), out_dtype))


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_opcheck_bf16_linear(out_dtype: torch.dtype) -> None:
    x, w = torch.randn(3, 64).to(torch.bfloat16), torch.randn(5, 64).to(torch.bfloat16)
    torch.library.opcheck(BF16, (x, w, None, out_dtype))
    torch.library.opcheck(BF16, (x, w, torch.randn(5), out_dtype))


def test_operators_trace_with_symbolic_sizes() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    w, w_scale = ops.per_token_quant_fp8(torch.randn(5, 64))

    def layer(x: torch.Tensor) -> torch.Tensor:
        xq, x_scale = ops.per_token_quant_fp8(x)
        return ops.fp8_linear(xq, x_scale, w, w_scale)

    traced = make_fx(layer, tracing_mode="symbolic", _allow_non_fake_inputs=True)(torch.randn(3, 64))
    x = torch.randn(7, 64)
    assert torch.equal(traced(x), layer(x))
    assert {node.target for node in traced.graph.nodes} >= {QUANT, LINEAR}


def test_large_outputs_are_mapped_in_huge_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this system maps no huge pages")
    codes, _ = QUANT(torch.ones(2304, 15360, dtype=torch.bfloat16), torch.float8_e4m3fn)
    inside = codes.data_ptr() + codes.numel() // 2
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            found = int(match[1], 16) <= inside < int(match[2], 16)
        elif found and line.startswith("VmFlags:"):
            assert "hg" in line.split()
            return
    pytest.fail("the output is nowhere in this process")
