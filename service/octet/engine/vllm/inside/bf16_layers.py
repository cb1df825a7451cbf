"""Products with bf16 weights, on CPUs without instructions for them. Importing this imports vLLM."""

from typing import Any

import torch
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.platforms import current_platform

from octet.engine.vllm import compat, kernels
from octet.engine.vllm.inside import fp8_vocabulary


def multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [..., K] times weight [N, K], plus bias [N], all bf16; the weight is read as it lies.

    vLLM leaves these products to torch, which has no bf16 instructions to do them with either.
    """
    rows = x.reshape(-1, x.shape[-1])
    out: torch.Tensor = torch.ops.octet.bf16_linear(rows, weight, bias, x.dtype)
    return out.view(*x.shape[:-1], weight.shape[0])


def prepare(layer: Any) -> bool:
    """Makes a layer that is not quantized multiply by `multiply`; False where vLLM has to make it ready."""
    weight: torch.Tensor = layer.weight
    if not kernels.multiplies_bf16() or current_platform.is_zen_cpu():
        return False
    if weight.is_meta or weight.dtype != torch.bfloat16 or weight.ndim != 2 or not weight.is_contiguous():
        return False
    layer.cpu_linear = multiply
    return True


def register() -> None:
    """Makes vLLM ask `prepare` about linear layers that are not quantized."""
    compat.layers.prepare_linear_layers(prepare)


def count(model: torch.nn.Module) -> int:
    """How many of a model's layers multiply so. An embedding that nothing multiplies by is none of them."""
    layers = [module for module in model.modules() if _has_method(module, UnquantizedLinearMethod)]
    layers += [
        layer
        for layer in fp8_vocabulary.output_layers(model)
        if _has_method(layer, UnquantizedEmbeddingMethod)
    ]
    return sum(getattr(layer, "cpu_linear", None) is multiply for layer in layers)


def _has_method(module: torch.nn.Module, method: type) -> bool:
    return isinstance(getattr(module, "quant_method", None), method)
