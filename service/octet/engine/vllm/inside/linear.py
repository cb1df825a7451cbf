"""FP8 linear kernels for vLLM: Octet's own on CPUs, vLLM's on CUDA. Importing this module imports vLLM."""

import torch
from vllm.model_executor.kernels.linear.scaled_mm.cutlass import CutlassFP8ScaledMMLinearKernel
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    FP8ScaledMMLinearKernel,
    FP8ScaledMMLinearLayerConfig,
)
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    QuantKey,
    kDynamicTokenScale,
    kFp8DynamicTokenSym,
    kStaticChannelScale,
)
from vllm.model_executor.utils import replace_parameter
from vllm.platforms import current_platform

from octet.engine.vllm import compat

_OUT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
_WEIGHTS = [QuantKey(dtype, kStaticChannelScale) for dtype in _FP8_DTYPES]
_ACTIVATIONS = [QuantKey(dtype, kDynamicTokenScale) for dtype in _FP8_DTYPES]


class OctetFP8LinearKernel(FP8ScaledMMLinearKernel):  # type: ignore[misc]
    """Per-channel weights times per-token activations through torch.ops.octet.fp8_linear.

    vLLM hands the weight over as a [K, N] view of memory that lies as [N, K], and expects it to stay so; the
    operator reads [N, K], so the weight is viewed back at each call and never copied. Weights and activations
    are of either FP8 format each.
    """

    def __init__(self, c: FP8ScaledMMLinearLayerConfig, layer_param_names: list[str]) -> None:
        super().__init__(c, layer_param_names)
        self.fp8_dtype = self.quant_fp8.fp8_dtype = c.activation_quant_key.dtype

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        """Whether the platform fits, and why not."""
        if not current_platform.is_cpu():
            return False, "requires a CPU"
        return True, None

    @classmethod
    def can_implement(cls, c: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        """Whether the layer's quantization fits, and why not."""
        if c.weight_quant_key not in _WEIGHTS:
            return False, "requires FP8 weights with one scale per output channel"
        if c.activation_quant_key not in _ACTIVATIONS:
            return False, "requires activations quantized dynamically per token"
        if c.out_dtype not in _OUT_DTYPES:
            return False, f"does not produce {c.out_dtype}"
        return True, None

    def input_quant_key(self) -> QuantKey | None:
        """What a fused producer may hand over already quantized."""
        key: QuantKey = self.config.activation_quant_key
        return key

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Makes the codes lie as [N, K] and the scales be f32 [N, 1]; copies nothing that already is so."""
        weight_name, scale_name, _, _ = self.layer_param_names
        weight, scale = getattr(layer, weight_name), getattr(layer, scale_name)
        columns = weight.shape[1]
        if not weight.t().is_contiguous():
            weight = weight.t().contiguous().t()
            replace_parameter(layer, weight_name, torch.nn.Parameter(weight, requires_grad=False))
        if scale.dtype != torch.float32 or scale.shape != (columns, 1) or not scale.is_contiguous():
            scale = scale.to(torch.float32).reshape(columns, 1).contiguous()
            replace_parameter(layer, scale_name, torch.nn.Parameter(scale, requires_grad=False))

    def apply_scaled_mm(
        self,
        *,
        A: torch.Tensor,
        B: torch.Tensor,
        out_dtype: torch.dtype,
        As: torch.Tensor,
        Bs: torch.Tensor,
        bias: torch.Tensor | None,
        output_shape: list[int],
    ) -> torch.Tensor:
        """A [T, K] and B [K, N] are codes, As [T, 1] and Bs [N, 1] f32; the result is [T, N] as asked for."""
        out: torch.Tensor = torch.ops.octet.fp8_linear(A, As, B.t(), Bs, bias, out_dtype)
        return out.view(*output_shape)


def register() -> None:
    """Makes vLLM try Octet's kernel first on CPUs."""
    compat.fp8_linear_kernels("cpu").insert(0, OctetFP8LinearKernel)


def register_prequantized_input() -> None:
    """Lets vLLM's CUTLASS kernel, on CUDA, take what a fused producer has quantized per token.

    It says of itself that it takes static activations only; its product with per-token scales is the same
    whoever quantizes. The class stays vLLM's, and is found under its name by whatever names it:
    VLLM_DISABLED_KERNELS, --linear-backend.
    """
    stock = getattr(CutlassFP8ScaledMMLinearKernel.input_quant_key, "octet_stock", None)
    stock = stock or CutlassFP8ScaledMMLinearKernel.input_quant_key

    def input_quant_key(self: CutlassFP8ScaledMMLinearKernel) -> QuantKey | None:
        if self.config.activation_quant_key == kFp8DynamicTokenSym:
            return kFp8DynamicTokenSym
        return stock(self)

    input_quant_key.octet_stock = stock  # type: ignore[attr-defined]
    CutlassFP8ScaledMMLinearKernel.input_quant_key = input_quant_key
