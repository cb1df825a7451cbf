"""Norm and rotation of queries and keys as one operator, in the attention of the models that have it so.

They are computed in place, in the output of the projection: attention and its cache take the heads as they
lie there. What writes the cache stays vLLM's. Its layout is the attention kernel's own and another one on
every instruction set (keys transposed in blocks, in pairs for AMX, in FP8 with scales), and what could be
saved is one call, for the row itself is in the first-level cache. Importing this module imports vLLM and
these models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from vllm.model_executor.layers.layernorm import GemmaRMSNorm
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.models.gemma3 import Gemma3Attention
from vllm.model_executor.models.llama import LlamaAttention
from vllm.model_executor.models.mistral import MistralAttention
from vllm.model_executor.models.qwen2 import Qwen2Attention
from vllm.model_executor.models.qwen3 import Qwen3Attention

from octet.engine.vllm import compat
from octet.engine.vllm.inside.rms_norm_layers import is_plain_norm

ATTENTIONS = (Gemma3Attention, LlamaAttention, MistralAttention, Qwen2Attention, Qwen3Attention)


@dataclass(frozen=True, slots=True)
class _Norms:
    """The norms of queries and keys: their weights [head_size], None for no norm; the rest is of both."""

    q_weight: torch.Tensor | None = None
    k_weight: torch.Tensor | None = None
    eps: float = 0.0
    gemma: bool = False


def register() -> None:
    """Makes the attention of these models rotate by Octet's operator."""
    for attention in ATTENTIONS:
        compat.layers.replace_forward(attention, forward)


def forward(
    stock: Callable[..., torch.Tensor],
    attention: Any,
    positions: torch.Tensor,
    hidden_states: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """What `stock`, vLLM's forward of an attention, computes, rotated by one operator where that can be.

    Args:
        stock: takes the other arguments.
        attention: one of ATTENTIONS, or of a subclass that left their forward as it is.
        positions: [T]; [3, T] for positions in pictures, which stay vLLM's.
        hidden_states: [T, hidden], perhaps quantized.
        kwargs: whatever else vLLM gives it.

    Returns:
        [T, hidden].
    """
    norms = _norms_of(attention)
    if norms is None or positions.dim() != 1 or not is_plain(attention.rotary_emb):
        return stock(attention, positions, hidden_states, **kwargs)
    qkv, _ = attention.qkv_proj(hidden_states)
    torch.ops.octet.qk_norm_rope(
        qkv,
        norms.q_weight,
        norms.k_weight,
        norms.eps,
        norms.gemma,
        positions,
        attention.rotary_emb._match_cos_sin_cache_dtype(qkv),
        attention.num_heads,
        attention.num_kv_heads,
        attention.head_dim,
    )
    q, k, v = qkv.split([attention.q_size, attention.kv_size, attention.kv_size], dim=-1)
    output, _ = attention.o_proj(attention.attn(q, k, v))
    return output  # type: ignore[no-any-return]


def is_plain(rotary_emb: Any) -> bool:
    """Whether a rotation is that of the table `cos_sin_cache`, by halves, and nothing else.

    So are the scaled ones (linear, Llama 3, YaRN), which make another table.
    """
    if not isinstance(rotary_emb, RotaryEmbedding) or not rotary_emb.is_neox_style:
        return False
    kind = type(rotary_emb)
    return kind.forward_native is RotaryEmbedding.forward_native and (
        kind.forward_cpu is RotaryEmbedding.forward_cpu
    )


def _norms_of(attention: Any) -> _Norms | None:
    """None where the operator does not compute them, or something else is done to the queries."""
    if getattr(attention, "do_llama_4_scaling", False):
        return None
    q_norm: Any = getattr(attention, "q_norm", None)
    k_norm: Any = getattr(attention, "k_norm", None)
    if q_norm is None and k_norm is None:
        return _Norms()
    gemma = isinstance(q_norm, GemmaRMSNorm) and isinstance(k_norm, GemmaRMSNorm)
    if not gemma and not (is_plain_norm(q_norm) and is_plain_norm(k_norm)):
        return None
    if q_norm.variance_epsilon != k_norm.variance_epsilon:
        return None
    if {q_norm.weight.dtype, k_norm.weight.dtype} != {attention.rotary_emb.dtype}:
        return None  # the model's dtype, which what is normalized has too
    return _Norms(q_norm.weight, k_norm.weight, q_norm.variance_epsilon, gemma)
