"""Octet's operators, on CPU and CUDA tensors: FP8, the norms around it, and products of bf16.

The names below call ``torch.ops.octet.*``, which the compiled extension registers; compiled graphs
(``torch.compile``, ``torch.export``) see them through the fake kernels of :mod:`octet.ops.fake`. The
numerical contract is written out in plain torch in :mod:`octet.ops.reference`, and the kernels equal it.

The CPU kernels are chosen when this package is imported: the fastest that the processor and the
operating system support, or the ones that the environment variable ``OCTET_ISA`` names
(:func:`available_isas`). A name that is not available is a ``ValueError``, never another choice.
"""

import torch

from octet.ops import fake as fake
from octet.ops import library as library

__all__ = [
    "available_isas",
    "bf16_linear",
    "build_info",
    "cuda_archs",
    "fp8_linear",
    "gelu_tanh_and_mul_quant_fp8",
    "gemma_norm_add_norm_quant_fp8",
    "gemma_rms_norm",
    "gemma_rms_norm_quant_fp8",
    "isa",
    "per_token_quant_fp8",
    "qk_norm_rope",
    "refused_isas",
    "rms_norm_quant_fp8",
    "silu_and_mul_quant_fp8",
    "use_isa",
]


def per_token_quant_fp8(
    x: torch.Tensor,
    dtype: torch.dtype = torch.float8_e4m3fn,
    scale_ub: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize each row to FP8 with its own scale, chosen so that its largest magnitude just fits.

    For a row of largest magnitude ``m`` (NaN ignored; at most ``scale_ub`` where that is given) the scale
    is ``max(m / FMAX, 1 / (FMAX * 512))`` and a code is ``x / scale``, clamped to the finite range and
    rounded to nearest, ties to even. NaN becomes ``+FMAX``. The codes and scales are the same bits on
    every CPU and GPU; the semantics are those of vLLM's ``dynamic_per_token_scaled_fp8_quant``.

    Args:
        x: ``[tokens, hidden]``, float32, float16 or bfloat16; rows may lie at any stride, the elements
            of a row must be adjacent. Either size may be 0.
        dtype: ``torch.float8_e4m3fn`` (FMAX = 448) or ``torch.float8_e5m2`` (FMAX = 57344).
        scale_ub: an upper bound of ``m``: one float32 value on the device of ``x``.

    Returns:
        The codes ``[tokens, hidden]`` of ``dtype`` and the scales, float32 ``[tokens, 1]``;
        ``codes * scales`` approximates ``x``.

    Raises:
        RuntimeError: a shape, dtype, stride or device is none of the above.
    """
    q, scale = torch.ops.octet.per_token_quant_fp8(x, dtype, scale_ub)
    return q, scale


def gemma_rms_norm_quant_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype = torch.float8_e4m3fn,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gemma's RMS norm of each row, quantized to FP8 as :func:`per_token_quant_fp8` quantizes it.

    The row that is quantized is ``x * rsqrt(mean(x^2) + eps) * (1 + weight)``, computed in float32 and
    rounded to the dtype of ``x``. Where there is a residual, the float32 sum ``x + residual`` takes the place
    of ``x``, and rounded to that dtype it replaces the residual in place. These are the roundings of vLLM's
    ``GemmaRMSNorm``.

    Args:
        x: ``[tokens, hidden]``, float32, float16 or bfloat16; rows may lie at any stride, the elements
            of a row must be adjacent. Either size may be 0.
        weight: ``[hidden]``, contiguous, of the dtype of ``x``.
        eps: what is added to the mean of the squares.
        dtype: ``torch.float8_e4m3fn`` or ``torch.float8_e5m2``.
        residual: of the shape and dtype of ``x``, in rows of their own; updated in place.

    Returns:
        The codes ``[tokens, hidden]`` of ``dtype`` and the scales, float32 ``[tokens, 1]``.

    Raises:
        RuntimeError: a shape, dtype, stride or device is none of the above.
    """
    q, scale = torch.ops.octet.gemma_rms_norm_quant_fp8(x, weight, eps, dtype, residual)
    return q, scale


def gemma_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Gemma's RMS norm of each row: ``x * rsqrt(mean(x^2) + eps) * (1 + weight)``.

    Computed in float32 and rounded once, as vLLM's ``GemmaRMSNorm`` without a residual.

    Args:
        x: ``[tokens, hidden]`` or ``[tokens, heads, hidden]``, float32, float16 or bfloat16; tokens and
        heads may
            lie at any stride, the elements of a row must be adjacent. Any size may be 0.
        weight: ``[hidden]``, contiguous, of the dtype of ``x``.
        eps: what is added to the mean of the squares.

    Returns:
        A contiguous tensor of the shape and dtype of ``x``.

    Raises:
        RuntimeError: a shape, dtype, stride or device is none of the above.
    """
    out: torch.Tensor = torch.ops.octet.gemma_rms_norm(x, weight, eps)
    return out


def gemma_norm_add_norm_quant_fp8(
    x: torch.Tensor,
    post_weight: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What lies between two sublayers of Gemma, as one: norm, residual, norm, quantization.

    ``gemma_rms_norm_quant_fp8(gemma_rms_norm(x, post_weight, eps), weight, eps, dtype, residual)``, rounded
    where these round, in one pass over memory.

    Args:
        x: ``[tokens, hidden]``, the output of a sublayer; float32, float16 or bfloat16; rows may lie at any
            stride, the elements of a row must be adjacent. Either size may be 0.
        post_weight: ``[hidden]``, of the norm after the sublayer; contiguous, of the dtype of ``x``.
        residual: of the shape and dtype of ``x``, in rows of their own; updated in place.
        weight: ``[hidden]``, of the norm before the next sublayer; contiguous, of the dtype of ``x``.
        eps: what is added to the mean of the squares in both norms.
        dtype: ``torch.float8_e4m3fn`` or ``torch.float8_e5m2``.

    Returns:
        The codes ``[tokens, hidden]`` of ``dtype`` and the scales, float32 ``[tokens, 1]``.

    Raises:
        RuntimeError: a shape, dtype, stride or device is none of the above.
    """
    q, scale = torch.ops.octet.gemma_norm_add_norm_quant_fp8(x, post_weight, residual, weight, eps, dtype)
    return q, scale


def rms_norm_quant_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype = torch.float8_e4m3fn,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The RMS norm of Llama, Qwen, Mistral and others of each row, quantized to FP8.

    The row that is quantized is ``x * rsqrt(mean(x^2) + eps)``, rounded to the dtype of ``x``, times
    ``weight``, rounded again: these are the roundings of vLLM's ``RMSNorm``. All else is as in
    :func:`gemma_rms_norm_quant_fp8`.
    """
    q, scale = torch.ops.octet.rms_norm_quant_fp8(x, weight, eps, dtype, residual)
    return q, scale


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
    """Normalize each head of the queries and keys, and rotate it by its token's position, in place.

    Where there is a weight, a head is normalized as :func:`gemma_rms_norm` does it (``gemma``) or as
    :func:`rms_norm_quant_fp8` does before it quantizes, and rounded. Its first ``rotary_dim`` elements are
    two halves ``a`` and ``b`` ("neox style"), which become ``a * cos - b * sin`` and ``b * cos + a * sin``,
    computed in float32 and rounded once; the rest is left. What else there is in a row, as the values, is not
    touched.

    Args:
        qkv: ``[tokens, heads * head_size]``, float32, float16 or bfloat16: the queries' heads, then the
            keys', then anything; rows may lie at any stride, the elements of a row must be adjacent.
        q_weight: of the queries' norm, ``[head_size]``, contiguous, of the dtype of ``qkv``; None for no
            norm.
        k_weight: the same of the keys.
        eps: what is added to the mean of the squares in both norms.
        gemma: whether the weights are deviations from one.
        positions: int64 ``[tokens]``, in ``[0, len(cos_sin))``; on CUDA that is not checked.
        cos_sin: ``[positions, rotary_dim]`` of the dtype of ``qkv``: the cosines, then the sines.
        q_heads: how many heads of queries there are.
        k_heads: and of keys.
        head_size: elements of a head, at least ``rotary_dim``.

    Raises:
        RuntimeError: a shape, dtype, stride, device or position is none of the above.
    """
    torch.ops.octet.qk_norm_rope(
        qkv, q_weight, k_weight, eps, gemma, positions, cos_sin, q_heads, k_heads, head_size
    )


def gelu_tanh_and_mul_quant_fp8(
    x: torch.Tensor, dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize ``gelu(gate) * up`` as :func:`per_token_quant_fp8` does, with GELU's tanh approximation.

    The activation is computed in float32; it and the product are each rounded to the dtype of ``x``.

    Args:
        x: ``[tokens, 2 * hidden]``, each row gate and up side by side; float32, float16 or bfloat16; rows
            may lie at any stride, the elements of a row must be adjacent. Either size may be 0.
        dtype: ``torch.float8_e4m3fn`` or ``torch.float8_e5m2``.

    Returns:
        The codes ``[tokens, hidden]`` of ``dtype`` and the scales, float32 ``[tokens, 1]``.

    Raises:
        RuntimeError: a shape, dtype or stride is none of the above.
    """
    q, scale = torch.ops.octet.gelu_tanh_and_mul_quant_fp8(x, dtype)
    return q, scale


def silu_and_mul_quant_fp8(
    x: torch.Tensor, dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize ``silu(gate) * up``; all else is as in :func:`gelu_tanh_and_mul_quant_fp8`."""
    q, scale = torch.ops.octet.silu_and_mul_quant_fp8(x, dtype)
    return q, scale


def fp8_linear(
    xq: torch.Tensor,
    x_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """Multiply FP8 activations by FP8 weights: ``(xq * x_scale) @ (w * w_scale).T + bias``. CPU only.

    Operands are decoded exactly, products are accumulated in float32, scales and bias are applied in
    float32, and the result is rounded once. Each operand may be of either FP8 format.

    Args:
        xq: codes ``[tokens, in_features]``, float8_e4m3fn or float8_e5m2.
        x_scale: float32 ``[tokens, 1]``, as :func:`per_token_quant_fp8` returns it.
        w: codes ``[out_features, in_features]``, contiguous, float8_e4m3fn or float8_e5m2.
        w_scale: float32 ``[out_features, 1]``.
        bias: float32, float16 or bfloat16 ``[out_features]``.
        out_dtype: float32, float16 or bfloat16.

    Returns:
        ``[tokens, out_features]`` of ``out_dtype``.

    Raises:
        RuntimeError: a shape, dtype or layout is none of the above.
        NotImplementedError: a tensor is not on the CPU.
    """
    out: torch.Tensor = torch.ops.octet.fp8_linear(xq, x_scale, w, w_scale, bias, out_dtype)
    return out


def bf16_linear(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """Multiply bf16 activations by bf16 weights: ``x @ w.T + bias``. CPU only.

    For processors without products of bf16, whose kernels read the weights as they lie and multiply in
    float32. Products are accumulated in float32, and the result is rounded once. A row's result does not
    depend on the other rows, nor on how many there are.

    Args:
        x: ``[tokens, in_features]``, bfloat16.
        w: ``[out_features, in_features]``, contiguous, bfloat16.
        bias: float32, float16 or bfloat16 ``[out_features]``.
        out_dtype: float32, float16 or bfloat16.

    Returns:
        ``[tokens, out_features]`` of ``out_dtype``.

    Raises:
        RuntimeError: a shape, dtype or layout is none of the above.
        NotImplementedError: a tensor is not on the CPU.
    """
    out: torch.Tensor = torch.ops.octet.bf16_linear(x, w, bias, out_dtype)
    return out


def isa() -> str:
    """Name of the CPU kernels in use, one of :func:`available_isas`."""
    return library.extension.isa()


def available_isas() -> list[str]:
    """Names of the CPU kernels that run on this machine, from the plainest to the fastest.

    These are the values that ``OCTET_ISA`` takes.
    """
    return library.extension.available_isas()


def refused_isas() -> dict[str, str]:
    """CPU kernels that the processor has the instructions for and that do not run, and why, for people.

    The kernels for AMX are refused where the operating system gives the process no tile registers, or where
    they compute something else than the portable kernels; the fastest of the others are used then.
    """
    return library.extension.refused_isas()


def use_isa(name: str) -> None:
    """Switch the whole process to the CPU kernels called ``name``, to test or to measure them.

    Raises:
        ValueError: ``name`` is not one of :func:`available_isas`.
    """
    library.extension.use_isa(name)


def cuda_archs() -> list[str]:
    """CUDA architectures that the kernels were compiled for, e.g. ``["sm_80", ...]``; [] without CUDA."""
    return library.extension.cuda_archs()


def build_info() -> dict[str, str]:
    """What the extension was built with; a value is empty where there was none.

    The keys are ``compiler``, ``build_type``, ``torch``, ``cuda_compiler`` and ``sanitizers``.
    """
    return library.extension.build_info()
