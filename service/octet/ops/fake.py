"""Fake kernels: what the operators return, without computing it. Importing this module registers them."""

import torch

from octet.ops import library as library


@torch.library.register_fake("octet::per_token_quant_fp8")  # type: ignore[untyped-decorator]
def _per_token_quant_fp8(
    x: torch.Tensor, dtype: torch.dtype, scale_ub: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty((x.shape[0], 1), dtype=torch.float32)


@torch.library.register_fake("octet::per_token_quant_fp8_out")  # type: ignore[untyped-decorator]
def _per_token_quant_fp8_out(
    x: torch.Tensor, scale_ub: torch.Tensor | None, *, q: torch.Tensor, scale: torch.Tensor
) -> None:
    return None


@torch.library.register_fake("octet::gemma_rms_norm")  # type: ignore[untyped-decorator]
def _gemma_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("octet::gemma_norm_add_norm_quant_fp8")  # type: ignore[untyped-decorator]
def _gemma_norm_add_norm_quant_fp8(
    x: torch.Tensor,
    post_weight: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty((x.shape[0], 1), dtype=torch.float32)


@torch.library.register_fake("octet::gemma_rms_norm_quant_fp8")  # type: ignore[untyped-decorator]
@torch.library.register_fake("octet::rms_norm_quant_fp8")  # type: ignore[untyped-decorator]
def _rms_norm_quant_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty((x.shape[0], 1), dtype=torch.float32)


@torch.library.register_fake("octet::qk_norm_rope")  # type: ignore[untyped-decorator]
def _qk_norm_rope(
    qkv: torch.Tensor,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    gemma: bool,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    q_heads: int,
    k_heads: int,
    head_size: int,
) -> None:
    return None


@torch.library.register_fake("octet::gelu_tanh_and_mul_quant_fp8")  # type: ignore[untyped-decorator]
@torch.library.register_fake("octet::silu_and_mul_quant_fp8")  # type: ignore[untyped-decorator]
def _gated_quant_fp8(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    q = x.new_empty((x.shape[0], x.shape[1] // 2), dtype=dtype)
    return q, x.new_empty((x.shape[0], 1), dtype=torch.float32)


@torch.library.register_fake("octet::fp8_linear")  # type: ignore[untyped-decorator]
def _fp8_linear(
    xq: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    return xq.new_empty((xq.shape[0], w.shape[0]), dtype=out_dtype)


@torch.library.register_fake("octet::bf16_linear")  # type: ignore[untyped-decorator]
def _bf16_linear(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, out_dtype: torch.dtype
) -> torch.Tensor:
    return x.new_empty((x.shape[0], w.shape[0]), dtype=out_dtype)
