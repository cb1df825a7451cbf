"""The numerical contract of the operators in plain torch: the oracle that the kernels are tested against.

Nothing here needs the compiled extension, and nothing here is fast.
"""

import torch


def per_token_quant_fp8(
    x: torch.Tensor,
    dtype: torch.dtype = torch.float8_e4m3fn,
    scale_ub: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`octet.ops.per_token_quant_fp8` computes, bit for bit; takes and returns the same.

    The rule for NaN has to be spelled out, because torch's ``amax`` and ``clamp`` propagate it: a NaN
    takes no part in a row's maximum and becomes +FMAX. So does Inf / Inf, in a row that has an infinity
    and hence an infinite scale. The clamp comes before the cast, because torch's cast to float8_e5m2
    overflows to infinity and the one to float8_e4m3fn to NaN.
    """
    largest = torch.finfo(dtype).max
    values = x.to(torch.float32)
    if x.shape[1] == 0:
        amax = values.new_zeros((x.shape[0], 1))
    else:
        amax = values.abs().masked_fill(values.isnan(), 0.0).amax(dim=1, keepdim=True)
    if scale_ub is not None:
        amax = torch.fmin(amax, scale_ub.reshape(1, 1))
    min_scale = torch.tensor(1.0 / (largest * 512.0), dtype=torch.float32, device=x.device)
    scale = torch.maximum(amax / largest, min_scale)

    quotient = values / scale
    saturated = quotient.clamp(-largest, largest).masked_fill(quotient.isnan(), largest)
    return saturated.to(dtype), scale


def per_channel_quant_fp8(
    w: torch.Tensor, dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`octet.quantize.kernel.per_channel_quant_fp8` computes, bit for bit, on tensors.

    Returns the codes ``[out_features, in_features]`` of ``dtype`` and the scales ``[out_features, 1]``.

    The steps, and where each is rounded to the dtype of ``w``, are those of compressed-tensors 0.19:
    ``calculate_qparams`` and ``_quantize``, whose addition of a zero point of 0 is what makes -0 a +0.
    """
    largest = torch.finfo(dtype).max
    amax = w.abs().amax(dim=1, keepdim=True) if w.shape[1] else w.new_zeros((w.shape[0], 1))
    scale = amax / largest
    scale = torch.where(scale == 0, torch.finfo(w.dtype).eps, scale)
    quotient = w / scale + 0.0
    codes = quotient.to(torch.float32).clamp(-largest, largest).masked_fill(~scale.isfinite(), torch.nan)
    return codes.to(dtype), scale


def gemma_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The norm of :func:`octet.ops.gemma_rms_norm`; takes and returns the same.

    The kernels equal it but for the order of the sum of squares, which now and then rounds an element to its
    neighbour in the dtype of ``x``.
    """
    values = x.to(torch.float32)
    normalized = values * torch.rsqrt(values.pow(2).mean(dim=-1, keepdim=True) + eps)
    return (normalized * (1.0 + weight.to(torch.float32))).to(x.dtype)


def gemma_norm_add_norm_quant_fp8(
    x: torch.Tensor,
    post_weight: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The operators of :func:`octet.ops.gemma_norm_add_norm_quant_fp8`, one after the other.

    Takes and returns the same, and updates the residual in place. What is said of the kernels there and in
    :func:`gemma_rms_norm` holds for both norms here.
    """
    return gemma_rms_norm_quant_fp8(gemma_rms_norm(x, post_weight, eps), weight, eps, dtype, residual)


def gemma_rms_norm_quant_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype = torch.float8_e4m3fn,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm and the quantization of :func:`octet.ops.gemma_rms_norm_quant_fp8`, one after the other.

    Takes and returns the same, and updates the residual in place. The roundings are those of vLLM 0.32's
    ``GemmaRMSNorm``: its ``fused_add_rms_norm`` normalizes the float32 sum and rounds what it returns.
    The kernels equal it but for the order of the sum of squares: scales within a relative 1e-6, codes within
    one code.
    """
    values = x.to(torch.float32)
    if residual is not None:
        values = values + residual.to(torch.float32)
        residual.copy_(values)
    normalized = values * torch.rsqrt(values.pow(2).mean(dim=1, keepdim=True) + eps)
    return per_token_quant_fp8((normalized * (1.0 + weight.to(torch.float32))).to(x.dtype), dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The norm in :func:`octet.ops.rms_norm_quant_fp8`, of rows [..., hidden]; as vLLM 0.32's ``RMSNorm``."""
    return _times_weight(x.to(torch.float32), weight, eps)


def rms_norm_quant_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype = torch.float8_e4m3fn,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm and the quantization of :func:`octet.ops.rms_norm_quant_fp8`, one after the other.

    Takes and returns the same, and updates the residual in place. What is said of the kernels in
    :func:`gemma_rms_norm_quant_fp8` holds here.
    """
    values = x.to(torch.float32)
    if residual is not None:
        values = values + residual.to(torch.float32)
        residual.copy_(values)
    return per_token_quant_fp8(_times_weight(values, weight, eps), dtype)


def _times_weight(values: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalizes float32 rows; the result is rounded to the weight's dtype, then multiplied in it."""
    normalized = values * torch.rsqrt(values.pow(2).mean(dim=-1, keepdim=True) + eps)
    return normalized.to(weight.dtype) * weight


def qk_norm_rope(
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
    """The norms and the rotation of :func:`octet.ops.qk_norm_rope`, one after the other.

    Takes the same, and updates it in place. The kernels equal it but for the order of the sum of squares,
    which now and then rounds an element to its neighbour.
    """
    norm = gemma_rms_norm if gemma else rms_norm
    count = q_heads + k_heads
    heads = qkv[:, : count * head_size].view(len(qkv), count, head_size)
    for part, weight in ((heads[:, :q_heads], q_weight), (heads[:, q_heads:], k_weight)):
        if weight is not None:
            part.copy_(norm(part, weight, eps))
    rotated = heads[..., : cos_sin.shape[1]].to(torch.float32)
    a, b = rotated.chunk(2, dim=-1)
    cos, sin = cos_sin.to(torch.float32)[positions].unsqueeze(1).chunk(2, dim=-1)
    heads[..., : cos_sin.shape[1]] = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(qkv.dtype)


def gelu_tanh_and_mul_quant_fp8(
    x: torch.Tensor, dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[torch.Tensor, torch.Tensor]:
    """The activation, the product and the quantization of the operator of that name, one after the other.

    Takes and returns what :func:`octet.ops.gelu_tanh_and_mul_quant_fp8` does. The kernels equal it but for
    the last places of tanh: scales within a relative 1e-6, codes within one code.
    """
    gate, up = x.tensor_split(2, dim=1)
    return per_token_quant_fp8(torch.nn.functional.gelu(gate, approximate="tanh") * up, dtype)


def silu_and_mul_quant_fp8(
    x: torch.Tensor, dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with SiLU, for :func:`octet.ops.silu_and_mul_quant_fp8`."""
    gate, up = x.tensor_split(2, dim=1)
    return per_token_quant_fp8(torch.nn.functional.silu(gate) * up, dtype)


def fp8_linear(
    xq: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """What :func:`octet.ops.fp8_linear` approximates, in float64 up to the one rounding to ``out_dtype``.

    The shapes are the same. Products of FP8 values are exact in float64, so with the default
    ``out_dtype`` the only errors are those of float64 sums.
    """
    products = xq.to(torch.float64) @ w.to(torch.float64).T
    out = products * x_scale.to(torch.float64) * w_scale.to(torch.float64).reshape(1, -1)
    if bias is not None:
        out = out + bias.to(torch.float64)
    return out.to(out_dtype)


def bf16_linear(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """What :func:`octet.ops.bf16_linear` approximates, in float64 up to the one rounding to ``out_dtype``.

    The shapes are the same. Products of bf16 values are exact in float64.
    """
    out = x.to(torch.float64) @ w.to(torch.float64).T
    return (out if bias is None else out + bias.to(torch.float64)).to(out_dtype)
