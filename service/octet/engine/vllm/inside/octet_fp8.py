"""The quantization method `octet_fp8` for vLLM: E4M3 or E5M2 weights, E4M3 or E5M2 activations.

A layer's tensors are those of compressed-tensors' FP8-Dynamic: `weight`, codes [out, in], and `weight_scale`
[out, 1]. E4M3 by E4M3 takes the way that vLLM chooses for them, with Octet's kernels or without. The other
pairs are Octet's: its own product on CPUs, and on CUDA torch._scaled_mm over what Octet has quantized.
Importing this module imports vLLM.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from vllm.config import get_current_vllm_config
from vllm.model_executor.kernels.linear import init_fp8_linear_kernel
from vllm.model_executor.kernels.linear.scaled_mm.pytorch import ChannelWiseTorchFP8ScaledMMLinearKernel
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    FP8ScaledMMLinearKernel,
    FP8ScaledMMLinearLayerConfig,
)
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.fusion.quant_activation import QuantizedActivation, expose_input_quant_key
from vllm.model_executor.layers.linear import (
    LinearBase,
    LinearMethodBase,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.quantization.compressed_tensors.utils import should_ignore_layer
from vllm.model_executor.layers.quantization.utils.fp8_utils import create_fp8_scale_parameter
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    QuantKey,
    kDynamicTokenScale,
    kStaticChannelScale,
    require_finite_positive_scales,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.parameter import ChannelQuantScaleParameter, ModelWeightParameter
from vllm.model_executor.utils import replace_parameter
from vllm.platforms import current_platform

from octet.engine.vllm import formats
from octet.engine.vllm.formats import FormatPair
from octet.engine.vllm.inside.linear import OctetFP8LinearKernel

if TYPE_CHECKING:
    from vllm.model_executor.models.utils import WeightsMapper

_PARAMETER_NAMES = ["weight", "weight_scale", "input_scale", "input_scale_ub"]


class OctetFP8Config(QuantizationConfig):  # type: ignore[misc]
    """What `quantization_config` says, applied to a model's layers."""

    def __init__(self, pair: FormatPair, ignore: list[str], *, vocabulary: bool = False) -> None:
        super().__init__()
        self.pair = pair
        self.ignore = ignore
        self.vocabulary = vocabulary

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "OctetFP8Config":
        """Reads the checkpoint's JSON.

        Raises:
            ValueError: it is malformed, or this platform cannot serve its formats. vLLM comes here before it
                loads anything.
        """
        pair, ignore = formats.read_config(config)
        if reason := formats.refusal(pair, _platform()):
            raise ValueError(reason)
        return cls(pair, ignore, vocabulary=config.get("vocabulary") is True)

    def get_name(self) -> str:
        """The quantization method's name."""
        return formats.METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """The dtypes that activations may have before they are quantized."""
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        """7.5, the oldest GPU that any kernel supports: vLLM's weight-only one. Others ask for more."""
        return 75

    @staticmethod
    def get_config_filenames() -> list[str]:
        """None that exists: it is all in config.json. With an empty list vLLM would ask for a default."""
        return ["octet_fp8.json"]

    def apply_vllm_mapper(self, hf_to_vllm_mapper: "WeightsMapper") -> None:
        """Turns the names that stay unquantized into vLLM's; patterns stay, as with compressed-tensors."""
        mapped = [
            name if name.startswith("re:") else hf_to_vllm_mapper._map_name(name) for name in self.ignore
        ]
        self.ignore = [name for name in mapped if name is not None]

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """How a layer is loaded and computed; None leaves what is no linear layer to vLLM, as is an output
        layer that is not quantized.

        Raises:
            ValueError: some but not all shards of a fused layer are quantized, or it is a mixture of experts.
        """
        if isinstance(layer, ParallelLMHead):
            return OctetFP8LinearMethod(self.pair, prefix) if self.vocabulary else None
        if not isinstance(layer, LinearBase | RoutedExperts):
            return None
        ignored = should_ignore_layer(prefix, ignore=self.ignore, fused_mapping=self.packed_modules_mapping)
        if isinstance(layer, RoutedExperts):
            if ignored:
                return None
            raise ValueError(f"{prefix}: {formats.METHOD} does not hold mixtures of experts")
        return UnquantizedLinearMethod() if ignored else OctetFP8LinearMethod(self.pair, prefix)


@register_weight_loader_v2_supported_method
class OctetFP8LinearMethod(LinearMethodBase):  # type: ignore[misc]
    """One linear layer, fused (qkv, gate and up) or sharded over ranks as vLLM's parameters are."""

    fp8_linear: FP8ScaledMMLinearKernel

    def __init__(self, pair: FormatPair, prefix: str) -> None:
        """Takes the formats and the layer's name, for messages."""
        self.pair = pair
        self.prefix = prefix
        # As CompressedTensorsW8A8Fp8 does: what is current while the model is built.
        self.out_dtype = torch.get_default_dtype()
        self.input_dtype = get_current_vllm_config().model_config.dtype

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Gives the layer `weight` [out, in] and `weight_scale` f32 [out, 1], and chooses its kernel.

        Raises:
            ValueError: no kernel fits.
        """
        rows = sum(output_partition_sizes)
        dtype = _dtype(self.pair.weights)
        load = extra_weight_attrs["weight_loader"]
        weight = ModelWeightParameter(
            data=torch.empty(rows, input_size_per_partition, dtype=dtype),
            input_dim=1,
            output_dim=0,
            weight_loader=self._checked(load, dtype),
        )
        scale = create_fp8_scale_parameter(
            ChannelQuantScaleParameter, output_partition_sizes, input_size_per_partition, None, load
        )
        layer.register_parameter("weight", weight)
        layer.register_parameter("weight_scale", scale)
        layer.input_scale = None
        layer.logical_widths = output_partition_sizes
        layer.orig_dtype = params_dtype
        self.fp8_linear = self._kernel((rows, input_size_per_partition))
        expose_input_quant_key(layer, self.fp8_linear)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Hands the weight over as the [K, N] view that vLLM's FP8 kernels take.

        Raises:
            ValueError: a scale is missing from the checkpoint, or is not a positive number.
        """
        if isinstance(layer, ParallelLMHead):
            # Places that no token has: vLLM fills them with zeros, which are no scales.
            layer.weight_scale.data[layer.num_org_embeddings_per_partition :] = 1.0
        require_finite_positive_scales(f"{self.prefix}.weight_scale", layer.weight_scale)
        replace_parameter(layer, "weight", torch.nn.Parameter(layer.weight.data.t(), requires_grad=False))
        # As compressed-tensors does: kernels that care for the layout read these.
        layer.weight.input_dim, layer.weight.output_dim = 0, 1
        self.fp8_linear.process_weights_after_loading(layer)

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor | QuantizedActivation, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The layer's output [..., out] for x [..., in]."""
        return cast(torch.Tensor, self.fp8_linear.apply_weights(layer, x, bias))

    def _kernel(self, weight_shape: tuple[int, int]) -> FP8ScaledMMLinearKernel:
        """The kernel for a weight [out, in]: of vLLM's choice for E4M3 by E4M3, one of Octet's otherwise."""
        config = FP8ScaledMMLinearLayerConfig(
            weight_quant_key=QuantKey(_dtype(self.pair.weights), kStaticChannelScale),
            activation_quant_key=QuantKey(_dtype(self.pair.activations), kDynamicTokenScale),
            weight_shape=weight_shape,
            input_dtype=self.input_dtype,
            out_dtype=self.out_dtype,
        )
        if self.pair == formats.STOCK_PAIR:
            return init_fp8_linear_kernel(
                activation_quant_key=config.activation_quant_key,
                weight_quant_key=config.weight_quant_key,
                input_dtype=config.input_dtype,
                out_dtype=config.out_dtype,
                weight_shape=weight_shape,
                module_name=type(self).__name__,
            )
        # vLLM's kernels look at the scales only, and would take E5M2 codes for E4M3.
        kernel = OctetFP8LinearKernel if current_platform.is_cpu() else MixedFP8LinearKernel
        for fits, reason in (kernel.is_supported(), kernel.can_implement(config)):
            if not fits:
                raise ValueError(f"{self.prefix}: {self.pair} cannot be multiplied: {reason}")
        return kernel(config, layer_param_names=_PARAMETER_NAMES)

    def _checked(self, load: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
        """A weight loader that takes no other format: a copy into the parameter would convert it silently."""

        def checked(param: torch.nn.Parameter, loaded_weight: torch.Tensor, *shard: Any, **named: Any) -> Any:
            if loaded_weight.dtype != dtype:
                raise ValueError(
                    f"{self.prefix}.weight: the checkpoint holds {loaded_weight.dtype}, "
                    f"and its quantization_config says {self.pair.weights}"
                )
            return load(param, loaded_weight, *shard, **named)

        return checked


class MixedFP8LinearKernel(ChannelWiseTorchFP8ScaledMMLinearKernel):  # type: ignore[misc]
    """E4M3 by E5M2 or E5M2 by E4M3 through torch._scaled_mm, with the scales applied to its f32 result.

    vLLM's own CUDA kernels for per-token scales take E4M3 only; cuBLASLt, behind torch._scaled_mm, multiplies
    mixed pairs too.
    """

    def __init__(self, c: FP8ScaledMMLinearLayerConfig, layer_param_names: list[str]) -> None:
        super().__init__(c, layer_param_names)
        self.fp8_dtype = self.quant_fp8.fp8_dtype = c.activation_quant_key.dtype

    @classmethod
    def can_implement(cls, c: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        """Whether cuBLASLt takes the layer's shape, and why not."""
        if any(size % 16 for size in c.weight_shape):
            return False, f"cuBLASLt wants sizes that 16 divides, and the weight is {list(c.weight_shape)}"
        return cast(tuple[bool, str | None], super().can_implement(c))


def register() -> None:
    """Makes vLLM know the method; may be repeated."""
    register_quantization_config(formats.METHOD)(OctetFP8Config)


def _dtype(name: str) -> torch.dtype:
    return cast(torch.dtype, getattr(torch, formats.TORCH_DTYPES[name]))


def _platform() -> str:
    """The platform as Octet's kernels are named: "cpu", "cuda", or one that they do not know."""
    return str(current_platform._enum.name).lower()
