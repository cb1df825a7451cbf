"""Where vLLM quantizes activations, and how its own kernels and compiler passes get along with Octet's."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from octet.engine.vllm.compat import layers


def replace_per_token_quant(quantize: Callable[..., Any], quantize_into: Callable[..., Any]) -> None:
    """Makes `_custom_ops.scaled_fp8_quant` quantize per token with Octet's operators; all else stays vLLM's.

    Args:
        quantize: makes the codes and the scales of a tensor, a dtype and an upper bound.
        quantize_into: writes them into tensors that are there.
    """
    import torch
    from vllm import _custom_ops
    from vllm.platforms import current_platform

    stock = inspect.unwrap(_custom_ops.scaled_fp8_quant)

    @functools.wraps(stock)
    def scaled_fp8_quant(
        input: torch.Tensor,
        scale: torch.Tensor | None = None,
        num_token_padding: int | None = None,
        scale_ub: torch.Tensor | None = None,
        use_per_token_if_dynamic: bool = False,
        output: torch.Tensor | None = None,
        group_shape: tuple[int, int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if scale is not None or not use_per_token_if_dynamic:
            return stock(  # type: ignore[no-any-return]
                input, scale, num_token_padding, scale_ub, use_per_token_if_dynamic, output, group_shape
            )
        dtype, tokens = current_platform.fp8_dtype(), input.shape[0]
        rows = max(num_token_padding or 0, tokens)
        if output is None and rows == tokens:
            return quantize(input, dtype, scale_ub)  # type: ignore[no-any-return]
        # What follows the tokens is anything, as in vLLM's own.
        q = input.new_empty((rows, input.shape[1]), dtype=dtype) if output is None else output
        scales = input.new_empty((rows, 1), dtype=torch.float32)
        quantize_into(input, scale_ub, q=q[:tokens], scale=scales[:tokens])
        return q, scales

    _custom_ops.scaled_fp8_quant = scaled_fp8_quant


def tell_fp8_linear_kernels(tell: Callable[[Any], None]) -> None:
    """Makes vLLM call `tell` with every FP8 linear kernel object that it has made for a layer."""
    from vllm.model_executor.kernels.linear import FP8ScaledMMLinearKernel

    layers.tell_new(FP8ScaledMMLinearKernel, tell)


def quantizes_activations(kernel: Any) -> bool:
    """Whether an FP8 linear kernel of vLLM's quantizes what it multiplies by; some take it as it is
    (W8A16).
    """
    return "quant_fp8" in inspect.unwrap(type(kernel).apply_weights).__code__.co_names


def stock_kernel(operator: str, rows: int, width: int) -> Callable[[], Any] | None:
    """What calls vLLM's own CUDA kernel for [rows, width] in bf16, to compare with; None where it has none.

    Args:
        operator: the name of Octet's.
        rows: tokens.
        width: of the codes.
    """
    import torch
    from vllm import _custom_ops

    fp8 = torch.float8_e4m3fn
    x = torch.randn(rows, width, dtype=torch.bfloat16, device="cuda")
    if operator == "per_token_quant_fp8":
        quantize = inspect.unwrap(_custom_ops.scaled_fp8_quant)
        return functools.partial(quantize, x, use_per_token_if_dynamic=True)
    if operator == "gemma_rms_norm_quant_fp8":
        weight, residual = torch.ones(width, dtype=torch.bfloat16, device="cuda"), torch.zeros_like(x)
        norm = _custom_ops.rms_norm_dynamic_per_token_quant
        return functools.partial(norm, x, weight, 1e-6, fp8, residual=residual)
    if operator == "gemma_rms_norm":
        weight, out = torch.ones(width, dtype=torch.bfloat16, device="cuda"), torch.empty_like(x)
        return functools.partial(torch.ops._C.rms_norm, out, x, weight, 1e-6)
    return None


def unquantized_linear(weight: Any) -> tuple[str, Callable[[Any], Any]]:
    """vLLM's own product on CPUs with a weight that is not quantized, prepared as for a layer.

    Args:
        weight: [out_features, in_features], bf16; stays as it is.

    Returns:
        The name of the function that vLLM has chosen: "onednn_mm" for oneDNN with a prepacked weight,
        "linear" for torch's, where oneDNN has no such product for this processor, and others on processors
        that have them; and what multiplies [tokens, in_features] by the weight.
    """
    import torch
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    layer: Any = torch.nn.Module()
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
    chosen: Callable[..., Any] = layer.cpu_linear
    name = chosen.__code__.co_names[-1]
    return name, lambda x: chosen(x, weight, None)


def fuse_norms_with_quantization(concerns: Callable[[Any], bool]) -> None:
    """On CUDA, lets vLLM's compiler pass that fuses a norm with a quantization find Octet's, and be on by
    default.

    To Inductor Octet's operator is opaque: a norm before it would be a kernel of its own. vLLM leaves the
    pass off where Inductor could fuse the two by itself.

    Args:
        concerns: whether a checkpoint with this quantization_config, None without, is quantized by that
        operator.
    """
    from vllm.compilation.passes.fusion import matcher_utils
    from vllm.config import vllm as config

    matcher = matcher_utils.MatcherQuantFP8
    stock = inspect.unwrap(matcher.forward_custom)

    @functools.wraps(stock)
    def forward_custom(self: Any, input: Any, scale: Any = None) -> Any:
        # What stands in the model's graph where the custom operator quant_fp8 is on (+quant_fp8) is Octet's
        # too.
        return self.quant_fp8(input) if self.quant_fp8.uses_octet else stock(self, input, scale)

    matcher.forward_custom = forward_custom
    enable_by_default(config, concerns)


def enable_by_default(config: Any, concerns: Callable[[Any], bool]) -> None:
    """Makes the levels of `vllm.config.vllm` that may fuse norms with quantization do it for what it
    concerns.
    """

    def enable(vllm_config: Any) -> bool:
        model = vllm_config.model_config
        own = None if model is None else getattr(model.hf_config, "quantization_config", None)
        return bool(config.enable_norm_fusion(vllm_config) or concerns(own))

    for level in config.OPTIMIZATION_LEVEL_TO_CONFIG.values():
        passes: dict[str, Any] = level["compilation_config"]["pass_config"]
        if passes["fuse_norm_quant"] is config.enable_norm_fusion:
            passes["fuse_norm_quant"] = enable
