"""Gemma 3's decoder layer with norm and activation fused into the quantization that follows them.

A fused producer hands its codes over as vLLM's QuantizedActivation, which a linear layer takes when its
kernel has an `input_quant_key`. The consumer is looked up at each call: LoRA puts a layer of its own in its
place after the model has been loaded, one that needs the unquantized input, as `get_input_quant_key` knows.
Importing this module imports vLLM and its Gemma 3.
"""

from functools import partial
from typing import Any

import torch
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.fusion.fused_act_quant import maybe_fused_act_quant
from vllm.model_executor.layers.fusion.quant_activation import QuantizedActivation, get_input_quant_key
from vllm.model_executor.layers.layernorm import GemmaRMSNorm
from vllm.model_executor.layers.quantization.utils.quant_utils import QuantKey, kDynamicTokenScale
from vllm.model_executor.models.gemma3 import Gemma3DecoderLayer

from octet.engine.vllm import compat
from octet.engine.vllm.inside import linear

_PER_TOKEN = [QuantKey(dtype, kDynamicTokenScale) for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)]


class _Producer:
    """A module whose output goes to one linear layer only."""

    # Owner and attribute. In a tuple, or the owner would become the module's child.
    _consumer: tuple[torch.nn.Module, str]

    @property
    def consumer(self) -> torch.nn.Module:
        """The linear layer that takes the output."""
        owner, name = self._consumer
        layer: torch.nn.Module = getattr(owner, name)
        return layer


class QuantizingGemmaRMSNorm(_Producer, GemmaRMSNorm):  # type: ignore[misc]
    """vLLM's GemmaRMSNorm, which quantizes too where the linear layer behind it takes codes."""

    def __init__(self, norm: GemmaRMSNorm, owner: torch.nn.Module, consumer: str) -> None:
        """Takes the place of `norm`, whose output goes to the layer `owner.consumer` only."""
        super().__init__(norm.weight.numel(), norm.variance_epsilon)
        self._consumer = (owner, consumer)

    @property
    def operator(self) -> str | None:
        """The operator of torch.ops.octet that runs here; None where vLLM's own code does."""
        return "gemma_rms_norm_quant_fp8" if input_key(self.consumer) else None

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        """Normalizes x [..., K], after adding it to the residual in place where there is one.

        Returns:
            A QuantizedActivation or, for a consumer that takes no codes, a tensor; with a residual, that and
            the residual's new value.
        """
        key = input_key(self.consumer)
        if key is None:
            return super().forward(x, residual)
        q, scale = torch.ops.octet.gemma_rms_norm_quant_fp8(
            x.reshape(-1, x.shape[-1]),
            self.weight,
            self.variance_epsilon,
            key.dtype,
            None if residual is None else residual.view(-1, x.shape[-1]),
        )
        out = _quantized(q, scale, x, key)
        return out if residual is None else (out, residual)


class QuantizingActivation(_Producer, torch.nn.Module):
    """An activation function that quantizes too where the linear layer behind it takes codes."""

    def __init__(self, act_fn: torch.nn.Module, owner: torch.nn.Module, consumer: str) -> None:
        """Takes the place of `act_fn`, whose output goes to the layer `owner.consumer` only."""
        super().__init__()
        self.act_fn = act_fn
        self._consumer = (owner, consumer)

    @property
    def operator(self) -> str | None:
        """The operator of torch.ops.octet that runs here; None where vLLM's own code does."""
        if input_key(self.consumer) is None:
            return None
        if isinstance(self.act_fn, GeluAndMul) and self.act_fn.approximate == "tanh":
            return "gelu_tanh_and_mul_quant_fp8"
        return "silu_and_mul_quant_fp8" if isinstance(self.act_fn, SiluAndMul) else None

    def forward(self, x: torch.Tensor) -> Any:
        """Gate and up [..., 2 K] to a QuantizedActivation or a tensor, [..., K]."""
        return maybe_fused_act_quant(self.act_fn, x, self.consumer)


class FusedGemma3DecoderLayer(Gemma3DecoderLayer):  # type: ignore[misc]
    """vLLM's decoder layer, in which three of the four linear layers get their input quantized already.

    Its forward stays vLLM's: whatever else might come to read a fused producer's output fails aloud.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._quantize_for("input_layernorm", self.self_attn, "qkv_proj")
        self._quantize_for("pre_feedforward_layernorm", self.mlp, "gate_up_proj")
        self.mlp.act_fn = QuantizingActivation(self.mlp.act_fn, self.mlp, "down_proj")

    def _quantize_for(self, norm: str, owner: torch.nn.Module, consumer: str) -> None:
        setattr(self, norm, QuantizingGemmaRMSNorm(getattr(self, norm), owner, consumer))


def input_key(layer: torch.nn.Module) -> QuantKey | None:
    """What a layer takes already quantized, if that is FP8 with a scale for each token."""
    key = get_input_quant_key(layer)
    return key if key in _PER_TOKEN else None


def register(device: str) -> None:
    """Puts the fused producers into vLLM: Gemma 3's layers, and the activations that Llama's MLP asks for."""
    if device == "cuda":
        linear.register_prequantized_input()
    compat.replace_gemma3_decoder_layer(FusedGemma3DecoderLayer)
    producers, conditions = compat.fused_activations()
    for key in _PER_TOKEN:
        producers[SiluAndMul, key] = partial(_activate, torch.ops.octet.silu_and_mul_quant_fp8, key)
        producers[GeluAndMul, key] = partial(_activate, torch.ops.octet.gelu_tanh_and_mul_quant_fp8, key)
        conditions[GeluAndMul, key] = _is_tanh


def _activate(operator: Any, key: QuantKey, x: torch.Tensor, layer: torch.nn.Module) -> QuantizedActivation:
    q, scale = operator(x.reshape(-1, x.shape[-1]), key.dtype)
    return _quantized(q, scale, x, key)


def _is_tanh(act_fn: torch.nn.Module, x: torch.Tensor, layer: torch.nn.Module) -> bool:
    return bool(act_fn.approximate == "tanh")


def _quantized(q: torch.Tensor, scale: torch.Tensor, x: torch.Tensor, key: QuantKey) -> QuantizedActivation:
    """Codes [T, K] and scales [T, 1] as vLLM hands them on, for an x of as many rows."""
    shape = torch.Size((*x.shape[:-1], q.shape[-1]))
    return QuantizedActivation(data=q, scale=scale, orig_dtype=x.dtype, orig_shape=shape, quant_key=key)
