"""Gemma 3's decoder layer with norms and activation fused into the quantization that follows them.

A fused producer hands its codes over as vLLM's QuantizedActivation, which a linear layer takes when its
kernel has an `input_quant_key`. The norm after a sublayer hands on what it was given, as a PendingNorm, to
the norm before the next sublayer, where both, the residual between them and the quantization are one
operator. The consumer is looked up at each call: LoRA puts a layer of its own in its place after the model
has been loaded, one that needs the unquantized input, as `get_input_quant_key` knows. Importing this module
imports vLLM and its Gemma 3.
"""

import itertools
from dataclasses import dataclass
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


class Producer:
    """A module whose output goes to one linear layer only."""

    # Owner and attribute. In a tuple, or the owner would become the module's child.
    _consumer: tuple[torch.nn.Module, str]

    @property
    def consumer(self) -> torch.nn.Module:
        """The linear layer that takes the output."""
        owner, name = self._consumer
        layer: torch.nn.Module = getattr(owner, name)
        return layer


class EagerGemmaRMSNorm(GemmaRMSNorm):  # type: ignore[misc]
    """vLLM's GemmaRMSNorm, as one operator where it is not compiled.

    vLLM computes it as some ten, for the f32 weight suits none of its kernels. The compiler makes one loop
    of them, and of what surrounds them, which an operator of ours would split.
    """

    def __init__(self, norm: GemmaRMSNorm) -> None:
        """Takes the place of `norm`."""
        super().__init__(norm.weight.numel(), norm.variance_epsilon)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        """Normalizes x [T, K] or [T, heads, K]; anything else is vLLM's."""
        if residual is None and x.dim() in (2, 3) and not torch.compiler.is_compiling():
            return torch.ops.octet.gemma_rms_norm(x, self.weight, self.variance_epsilon)
        return super().forward(x, residual)


@dataclass(frozen=True, slots=True)
class PendingNorm:
    """What a norm was given, for the one that follows it; whatever else comes to read it fails aloud.

    Attributes:
        x: [..., K].
        norm: what is still to be done to it.
    """

    x: torch.Tensor
    norm: "PendingGemmaRMSNorm"


class PendingGemmaRMSNorm(EagerGemmaRMSNorm):
    """A norm after a sublayer, which leaves its work to the norm before the next one."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        """Hands x [..., K] on; there is no residual after a sublayer."""
        assert residual is None
        return PendingNorm(x, self)

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """What was left to do to x [..., K]."""
        out: torch.Tensor = super().forward(x)
        return out


class QuantizingGemmaRMSNorm(Producer, GemmaRMSNorm):  # type: ignore[misc]
    """vLLM's GemmaRMSNorm, which quantizes too where the linear layer behind it takes codes."""

    follows_norm = False
    """Whether it is given PendingNorms: it lies between two sublayers."""

    def __init__(self, norm: GemmaRMSNorm, owner: torch.nn.Module, consumer: str) -> None:
        """Takes the place of `norm`, whose output goes to the layer `owner.consumer` only."""
        super().__init__(norm.weight.numel(), norm.variance_epsilon)
        self._consumer = (owner, consumer)

    @property
    def operator(self) -> str | None:
        """The operator of torch.ops.octet that runs here; None where vLLM's own code does."""
        if input_key(self.consumer) is None:
            return None
        return "gemma_norm_add_norm_quant_fp8" if self.follows_norm else "gemma_rms_norm_quant_fp8"

    def forward(self, x: "torch.Tensor | PendingNorm", residual: torch.Tensor | None = None) -> Any:
        """Normalizes x [..., K], after adding it to the residual in place where there is one.

        Returns:
            A QuantizedActivation or, for a consumer that takes no codes, a tensor; with a residual, that and
            the residual's new value.
        """
        key = input_key(self.consumer)
        if key is None:
            return super().forward(x.norm.normalize(x.x) if isinstance(x, PendingNorm) else x, residual)
        if isinstance(x, PendingNorm):
            return self._after_norm(x, residual, key)
        return normalize_and_quantize(torch.ops.octet.gemma_rms_norm_quant_fp8, self, x, residual, key)

    def _after_norm(
        self, pending: PendingNorm, residual: torch.Tensor | None, key: QuantKey
    ) -> tuple[QuantizedActivation, torch.Tensor]:
        assert residual is not None, "between two sublayers there is a residual"
        x = pending.x
        q, scale = torch.ops.octet.gemma_norm_add_norm_quant_fp8(
            x.reshape(-1, x.shape[-1]),
            pending.norm.weight,
            residual.view(-1, x.shape[-1]),
            self.weight,
            self.variance_epsilon,
            key.dtype,
        )
        return _quantized(q, scale, x, key), residual


class QuantizingActivation(Producer, torch.nn.Module):
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

    Its forward stays vLLM's: whatever else might come to read a fused producer's output fails aloud. A model
    that knows which of its layers follow one another joins them by `hand_on_to`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._quantize_for("input_layernorm", self.self_attn, "qkv_proj")
        self._quantize_for("pre_feedforward_layernorm", self.mlp, "gate_up_proj")
        self.mlp.act_fn = QuantizingActivation(self.mlp.act_fn, self.mlp, "down_proj")
        _replace(self.self_attn, "q_norm", EagerGemmaRMSNorm)
        _replace(self.self_attn, "k_norm", EagerGemmaRMSNorm)
        _replace(self, "post_attention_layernorm", PendingGemmaRMSNorm)
        self.pre_feedforward_layernorm.follows_norm = True
        _replace(self, "post_feedforward_layernorm", EagerGemmaRMSNorm)

    def hand_on_to(self, following: "FusedGemma3DecoderLayer") -> None:
        """Leaves the norm after this layer to the layer that gets its output; before weights are loaded."""
        _replace(self, "post_feedforward_layernorm", PendingGemmaRMSNorm)
        following.input_layernorm.follows_norm = True

    def _quantize_for(self, norm: str, owner: torch.nn.Module, consumer: str) -> None:
        setattr(self, norm, QuantizingGemmaRMSNorm(getattr(self, norm), owner, consumer))


def input_key(layer: torch.nn.Module) -> QuantKey | None:
    """What a layer takes already quantized, if that is FP8 with a scale for each token."""
    key = get_input_quant_key(layer)
    return key if key in _PER_TOKEN else None


def normalize_and_quantize(
    operator: Any, norm: Any, x: torch.Tensor, residual: torch.Tensor | None, key: QuantKey
) -> Any:
    """Normalizes x [..., K], after adding it to the residual in place where there is one, and quantizes it.

    Args:
        operator: of torch.ops.octet, which does it to rows.
        norm: has the weight [K] and the epsilon.
        x: what is normalized.
        residual: of the shape of x; None for none.
        key: how its consumer takes it.

    Returns:
        A QuantizedActivation; with a residual, that and the residual's new value.
    """
    q, scale = operator(
        x.reshape(-1, x.shape[-1]),
        norm.weight,
        norm.variance_epsilon,
        key.dtype,
        None if residual is None else residual.view(-1, x.shape[-1]),
    )
    out = _quantized(q, scale, x, key)
    return out if residual is None else (out, residual)


def register(device: str) -> None:
    """Puts the fused producers into vLLM: Gemma 3's layers, and the activations that Llama's MLP asks for."""
    if device == "cuda":
        linear.register_prequantized_input()
    compat.replace_gemma3_decoder_layer(FusedGemma3DecoderLayer, _join)
    producers, conditions = compat.fused_activations()
    for key in _PER_TOKEN:
        producers[SiluAndMul, key] = partial(_activate, torch.ops.octet.silu_and_mul_quant_fp8, key)
        producers[GeluAndMul, key] = partial(_activate, torch.ops.octet.gelu_tanh_and_mul_quant_fp8, key)
        conditions[GeluAndMul, key] = _is_tanh


def _replace(owner: torch.nn.Module, norm: str, kind: type[EagerGemmaRMSNorm]) -> None:
    setattr(owner, norm, kind(getattr(owner, norm)))


def _join(layers: list[torch.nn.Module]) -> None:
    """Joins the layers that this process computes, in their order."""
    for layer, following in itertools.pairwise(layers):
        if isinstance(layer, FusedGemma3DecoderLayer) and isinstance(following, FusedGemma3DecoderLayer):
            layer.hand_on_to(following)


def _activate(operator: Any, key: QuantKey, x: torch.Tensor, layer: torch.nn.Module) -> QuantizedActivation:
    q, scale = operator(x.reshape(-1, x.shape[-1]), key.dtype)
    return _quantized(q, scale, x, key)


def _is_tanh(act_fn: torch.nn.Module, x: torch.Tensor, layer: torch.nn.Module) -> bool:
    return bool(act_fn.approximate == "tanh")


def _quantized(q: torch.Tensor, scale: torch.Tensor, x: torch.Tensor, key: QuantKey) -> QuantizedActivation:
    """Codes [T, K] and scales [T, 1] as vLLM hands them on, for an x of as many rows."""
    shape = torch.Size((*x.shape[:-1], q.shape[-1]))
    return QuantizedActivation(data=q, scale=scale, orig_dtype=x.dtype, orig_shape=shape, quant_key=key)
