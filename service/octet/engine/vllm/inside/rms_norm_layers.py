"""The decoder layers of Llama, Mistral and Qwen with norms and activation fused into quantization.

Their norm takes the residual along already, so that one operator lies between two sublayers. On CUDA the
compiler pass of vLLM's that fuses a norm with a quantization finds these layers, and they stay vLLM's.
Importing this module imports vLLM and these models.
"""

from typing import Any

import torch
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.llama import LlamaDecoderLayer
from vllm.model_executor.models.mistral import MistralDecoderLayer
from vllm.model_executor.models.qwen2 import Qwen2DecoderLayer
from vllm.model_executor.models.qwen3 import Qwen3DecoderLayer

from octet.engine.vllm import compat
from octet.engine.vllm.inside.fused import Producer, QuantizingActivation, input_key, normalize_and_quantize

LAYERS = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)


class QuantizingRMSNorm(Producer, RMSNorm):  # type: ignore[misc]
    """vLLM's RMSNorm, which quantizes too where the linear layer behind it takes codes."""

    def __init__(self, norm: RMSNorm, owner: torch.nn.Module, consumer: str) -> None:
        """Takes the place of `norm`, whose output goes to the layer `owner.consumer` only."""
        super().__init__(norm.hidden_size, norm.variance_epsilon, dtype=norm.weight.dtype)
        self._consumer = (owner, consumer)

    @property
    def operator(self) -> str | None:
        """The operator of torch.ops.octet that runs here; None where vLLM's own code does."""
        return None if input_key(self.consumer) is None else "rms_norm_quant_fp8"

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        """Normalizes x [..., K], after adding it to the residual in place where there is one.

        Returns:
            A QuantizedActivation or, for a consumer that takes no codes, a tensor; with a residual, that and
            the residual's new value.
        """
        key = input_key(self.consumer)
        if key is None or self.weight.dtype != x.dtype:
            return super().forward(x, residual)
        return normalize_and_quantize(torch.ops.octet.rms_norm_quant_fp8, self, x, residual, key)


def is_plain_norm(norm: Any) -> bool:
    """Whether a norm is just vLLM's RMSNorm, of all elements and with a weight."""
    return type(norm) is RMSNorm and norm.has_weight and norm.variance_size_override is None


def register() -> None:
    """Makes the layers that vLLM builds quantize in their norms and activations."""
    for layer in LAYERS:
        compat.layers.prepare_new(layer, _fuse)


def _fuse(layer: Any) -> None:
    """Puts the fused producers into one of LAYERS, before its weights are loaded."""
    if getattr(layer, "ada_rms_norm_t_cond", None) is None:  # which multiplies what the norm gives
        _quantize_for(layer, "post_attention_layernorm", layer.mlp, "gate_up_proj")
    _quantize_for(layer, "input_layernorm", layer.self_attn, "qkv_proj")
    if isinstance(layer.mlp.act_fn, SiluAndMul):
        layer.mlp.act_fn = QuantizingActivation(layer.mlp.act_fn, layer.mlp, "down_proj")


def _quantize_for(layer: Any, norm: str, owner: torch.nn.Module, consumer: str) -> None:
    stock = getattr(layer, norm)
    if is_plain_norm(stock):
        setattr(layer, norm, QuantizingRMSNorm(stock, owner, consumer))
