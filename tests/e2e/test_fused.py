"""Norm and activation fused with quantization, inside vLLM's modules: what they hand over, and to whom."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

T, K = 5, 192


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """The plugin puts its producers into this process's vLLM."""
    from octet.engine.vllm.plugin import register

    register()


@pytest.fixture(autouse=True)
def as_in_vllm() -> Iterator[None]:
    """vLLM's layers are built while some configuration is the current one, and run without autograd."""
    from vllm.config import VllmConfig, set_current_vllm_config

    with torch.no_grad(), set_current_vllm_config(VllmConfig()):
        yield


def rows(width: int, seed: int) -> torch.Tensor:
    return torch.randn(T, width, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def owner_of(consumer: Any) -> torch.nn.Module:
    owner = torch.nn.Module()
    owner.consumer = consumer
    return owner


def linear_layer(dtype: torch.dtype | None, *, lora: bool = False) -> torch.nn.Module:
    """A linear layer as vLLM's producers see it; `dtype` is of the codes that it takes."""
    from vllm.model_executor.layers.quantization.utils.quant_utils import QuantKey, kDynamicTokenScale

    layer = torch.nn.Module()
    if dtype is not None:
        layer._input_quant_key = QuantKey(dtype, kDynamicTokenScale)
    layer.requires_unquantized_input = lora
    return layer


def fused_norm(consumer: torch.nn.Module) -> Any:
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm

    from octet.engine.vllm.inside.fused import QuantizingGemmaRMSNorm

    norm = QuantizingGemmaRMSNorm(GemmaRMSNorm(K, eps=1e-6), owner_of(consumer), "consumer")
    norm.weight.data = rows(K, seed=3)[0]
    return norm


def fused_activation(act_fn: Any, consumer: torch.nn.Module) -> Any:
    from octet.engine.vllm.inside.fused import QuantizingActivation

    return QuantizingActivation(act_fn, owner_of(consumer), "consumer")


def unequal_codes(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The share of codes that differ."""
    return float((ours.view(torch.uint8) != theirs.view(torch.uint8)).float().mean())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("shape", [(T, K), (1, T, K)])
def test_the_norm_hands_over_codes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The same as vLLM's norm and Octet's quantization after it, but for the order of a sum."""
    norm = fused_norm(linear_layer(dtype))
    x = rows(K, seed=1).view(shape)
    out = norm(x)
    codes, scale = torch.ops.octet.per_token_quant_fp8(norm.forward_native(x).view(T, K), dtype)
    assert out.quant_key.dtype == dtype
    assert out.orig_dtype == torch.bfloat16
    assert out.orig_shape == shape
    torch.testing.assert_close(out.scale, scale, rtol=2**-8, atol=0.0)
    assert unequal_codes(out.data, codes) < 0.01
    assert norm.operator == "gemma_rms_norm_quant_fp8"


def test_the_norm_updates_the_residual() -> None:
    """Both normalize the sum before it is rounded: the codes are equal, but for the order of a sum."""
    norm = fused_norm(linear_layer(torch.float8_e4m3fn))
    x, residual = rows(K, seed=1), rows(K, seed=2)
    normalized, total = norm.forward_native(x, residual.clone())
    out, updated = norm(x, residual)
    assert updated.data_ptr() == residual.data_ptr()
    assert torch.equal(updated, total)
    codes, scale = torch.ops.octet.per_token_quant_fp8(normalized, torch.float8_e4m3fn)
    torch.testing.assert_close(out.scale, scale, rtol=1e-6, atol=0.0)
    assert unequal_codes(out.data, codes) <= 0.001


@pytest.mark.parametrize(
    "consumer",
    [linear_layer(None), linear_layer(torch.float8_e4m3fn, lora=True)],
    ids=["unquantized", "LoRA"],
)
def test_other_consumers_get_what_vllm_computes(consumer: torch.nn.Module) -> None:
    from vllm.model_executor.layers.activation import GeluAndMul

    norm, act_fn = fused_norm(consumer), GeluAndMul(approximate="tanh")
    activation = fused_activation(act_fn, consumer)
    x, residual, gate_up = rows(K, seed=1), rows(K, seed=2), rows(2 * K, seed=4)
    assert torch.equal(norm(x), norm.forward_native(x))
    for ours, theirs in zip(norm(x, residual.clone()), norm.forward_native(x, residual.clone()), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(activation(gate_up), act_fn(gate_up))
    assert norm.operator is None
    assert activation.operator is None


def test_a_consumer_with_a_scale_for_the_whole_tensor_gets_what_vllm_computes() -> None:
    from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8DynamicTensorSym

    consumer = linear_layer(None)
    consumer._input_quant_key = kFp8DynamicTensorSym
    norm, x = fused_norm(consumer), rows(K, seed=1)
    assert torch.equal(norm(x), norm.forward_native(x))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["gelu_tanh_and_mul_quant_fp8", "silu_and_mul_quant_fp8"])
def test_activations_hand_over_codes(name: str, dtype: torch.dtype) -> None:
    from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul

    act_fn = GeluAndMul(approximate="tanh") if name.startswith("gelu") else SiluAndMul()
    activation = fused_activation(act_fn, linear_layer(dtype))
    gate_up = rows(2 * K, seed=4)
    out = activation(gate_up)
    codes, scale = torch.ops.octet.per_token_quant_fp8(act_fn.forward_native(gate_up), dtype)
    assert out.orig_shape == (T, K)
    assert out.quant_key.dtype == dtype
    torch.testing.assert_close(out.scale, scale, rtol=2**-8, atol=0.0)
    assert unequal_codes(out.data, codes) < 0.01
    assert activation.operator == name


def test_exact_gelu_stays_vllms() -> None:
    from vllm.model_executor.layers.activation import GeluAndMul

    act_fn = GeluAndMul(approximate="none")
    activation = fused_activation(act_fn, linear_layer(torch.float8_e4m3fn))
    gate_up = rows(2 * K, seed=4)
    assert torch.equal(activation(gate_up), act_fn(gate_up))
    assert activation.operator is None


def test_compiled_code_calls_the_operators() -> None:
    from vllm.model_executor.layers.activation import GeluAndMul

    consumer = linear_layer(torch.float8_e4m3fn)
    norm = fused_norm(consumer)
    activation = fused_activation(GeluAndMul(approximate="tanh"), consumer)

    def layer(x: torch.Tensor, residual: torch.Tensor, gate_up: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, residual = norm(x, residual)
        activated = activation(gate_up)
        return out.data, out.scale, residual, activated.data, activated.scale

    inputs = rows(K, seed=1), rows(K, seed=2), rows(2 * K, seed=4)
    expected = layer(*(each.clone() for each in inputs))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(compiled(*(each.clone() for each in inputs)), expected, strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def test_cuda_gets_a_product_that_takes_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before vLLM's own in its list; static scales keep their path."""
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.kernels.linear import CutlassFP8ScaledMMLinearKernel
    from vllm.model_executor.layers.quantization.utils.quant_utils import (
        kFp8DynamicTensorSym,
        kFp8DynamicTokenSym,
        kFp8StaticTensorSym,
    )
    from vllm.platforms import PlatformEnum

    from octet.engine.vllm.inside.linear import PrequantizedCutlassKernel, register_prequantized_input

    table = linear._POSSIBLE_FP8_KERNELS
    theirs = [k for k in table[PlatformEnum.CUDA] if k is not PrequantizedCutlassKernel]
    monkeypatch.setitem(table, PlatformEnum.CUDA, list(theirs))
    register_prequantized_input()
    kernels = table[PlatformEnum.CUDA]
    at = kernels.index(PrequantizedCutlassKernel)
    assert kernels[at + 1] is CutlassFP8ScaledMMLinearKernel
    assert kernels[:at] + kernels[at + 1 :] == theirs
    for key, taken in (
        (kFp8DynamicTokenSym, kFp8DynamicTokenSym),
        (kFp8StaticTensorSym, kFp8StaticTensorSym),
        (kFp8DynamicTensorSym, None),
    ):
        kernel = object.__new__(PrequantizedCutlassKernel)
        kernel.config = SimpleNamespace(activation_quant_key=key)
        assert kernel.input_quant_key() == taken
