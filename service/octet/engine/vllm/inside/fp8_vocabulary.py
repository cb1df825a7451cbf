"""The output layer in FP8 (`--fp8-vocabulary`): quantized per channel when the model is loaded.

Half of what a small model reads for a token is the matrix that makes logits, and in FP8 checkpoints it is the
one that has stayed bf16. An embedding that is tied to it stays bf16 for look-ups, which read a row a token;
only a matrix that nothing else reads is given back. Importing this module imports vLLM.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from vllm.config import get_current_vllm_config
from vllm.distributed import get_pp_group
from vllm.logger import init_logger
from vllm.model_executor.kernels.linear import init_fp8_linear_kernel
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import FP8ScaledMMLinearKernel
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    kFp8DynamicTokenSym,
    kFp8StaticChannelSym,
)
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from octet.engine.vllm import compat, formats

if TYPE_CHECKING:
    from vllm.config import ModelConfig

logger = init_logger("vllm.plugins.octet")

_DRAFT = "draft"


class Fp8OutputLayer(UnquantizedEmbeddingMethod):  # type: ignore[misc]
    """Logits out of codes with one scale per token of the vocabulary; look-ups, where there are any, in bf16.

    The codes are a module of their own beside the layer's weight, `octet_codes`: LoRA and drafting models ask
    the layer for its weight, and a tied one is not its own.
    """

    fp8_linear: FP8ScaledMMLinearKernel
    supports_pre_processed_weights = False

    def __init__(self, layer: VocabParallelEmbedding, dtype: torch.dtype, *, keeps_weight: bool) -> None:
        """Chooses the kernel for a loaded layer.

        Args:
            layer: with a weight [tokens, hidden] of 16 or 32 bits.
            dtype: of the hidden states, and of the logits.
            keeps_weight: whether somebody looks tokens up in the weight, or compares it.

        Raises:
            ValueError: no kernel fits.
        """
        self._dtype = dtype
        self._keeps_weight = keeps_weight
        self.fp8_linear = init_fp8_linear_kernel(
            activation_quant_key=kFp8DynamicTokenSym,
            weight_quant_key=kFp8StaticChannelSym,
            input_dtype=dtype,
            out_dtype=dtype,
            weight_shape=tuple(layer.weight.shape),
            module_name=type(self).__name__,
        )

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Quantizes this rank's share of the vocabulary; each of its rows by itself, as every rank would."""
        weight = cast(torch.Tensor, layer.weight).detach()
        codes, scale = torch.ops.octet.per_token_quant_fp8(weight, self.fp8_linear.fp8_dtype, None)
        layer.octet_codes = _as_linear_layer(codes, scale, self._dtype)
        self.fp8_linear.process_weights_after_loading(layer.octet_codes)
        if not self._keeps_weight:
            layer.weight = torch.nn.Parameter(weight.new_empty(0), requires_grad=False)

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [..., tokens] of hidden states [..., hidden]."""
        return cast(torch.Tensor, self.fp8_linear.apply_weights(layer.octet_codes, x, bias))


def register() -> None:
    """Makes vLLM quantize the output layers of models whose configuration asks for it."""
    compat.loading.when_loaded(choose)


def choose(model: torch.nn.Module, model_config: "ModelConfig") -> None:
    """Has the output layers of a model with loaded weights quantized, where its engine was asked to.

    Raises:
        ValueError: it has none that could be; the message is one line.
    """
    if not formats.asks_for_fp8_vocabulary(get_current_vllm_config().additional_config):
        return
    layers = list(output_layers(model))
    for layer in layers:
        if format_of(layer):
            logger.info_once("octet: the output layer is FP8 in the checkpoint already", scope="global")
        elif isinstance(layer.quant_method, UnquantizedEmbeddingMethod | UnquantizedLinearMethod):
            _quantize(layer, model, model_config)
        else:
            method = type(layer.quant_method).__name__
            raise ValueError(f"--fp8-vocabulary: the output layer is quantized otherwise already ({method})")
    # Models that draft may use that of the model which they draft for.
    if not layers and model_config.runner_type != _DRAFT and get_pp_group().is_last_rank:
        raise ValueError(f"--fp8-vocabulary: {type(model).__name__} has no output layer that Octet knows")


def output_layers(model: torch.nn.Module) -> Iterator[VocabParallelEmbedding]:
    """What a model makes its logits with; nothing on ranks of a pipeline that make none."""
    if not get_pp_group().is_last_rank:
        return
    found = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    heads = [layer for layer in found if isinstance(layer, ParallelLMHead)]
    # Some, such as Gemma 2, have no layer for it, and multiply by their one embedding.
    yield from heads or (found if len(found) == 1 else ())


def format_of(layer: torch.nn.Module) -> str:
    """The FP8 format of an output layer's codes, such as "e4m3"; "" where it is not FP8."""
    for holder in (getattr(layer, "scheme", None), getattr(layer, "quant_method", None)):
        kernel = getattr(holder, "fp8_linear", None)
        if kernel is not None:
            dtype = str(kernel.config.weight_quant_key.dtype).removeprefix("torch.")
            return next((name for name, known in formats.TORCH_DTYPES.items() if known == dtype), "")
    return ""


def _quantize(layer: VocabParallelEmbedding, model: torch.nn.Module, model_config: "ModelConfig") -> None:
    weight = layer.weight
    shares = sum(getattr(module, "weight", None) is weight for module in model.modules())
    looked_up = shares > 1 or not isinstance(layer, ParallelLMHead)
    # A model that drafts gets the layer of the one that it drafts for where vLLM finds their weights equal,
    # as two that were given back would be.
    keeps = looked_up or model_config.runner_type == _DRAFT
    layer.quant_method = Fp8OutputLayer(layer, model_config.dtype, keeps_weight=keeps)
    logger.info_once(
        "octet: the output layer is quantized to FP8 (e4m3): %.1f MB%s",
        weight.numel() / 1e6,
        ", beside the embedding, which stays as it is" if looked_up else "",
        scope="global",
    )


def _as_linear_layer(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.nn.Module:
    """Codes [N, K] and scales f32 [N, 1] as the kernels find them in a linear layer of vLLM's."""
    layer: Any = torch.nn.Module()
    layer.output_size_per_partition, layer.input_size_per_partition = codes.shape
    layer.logical_widths = [codes.shape[0]]
    layer.orig_dtype = dtype
    layer.input_scale = layer.weight_block_size = layer.bias = None
    layer.weight = torch.nn.Parameter(codes.t(), requires_grad=False)
    # As compressed-tensors does: kernels that care for the layout read these.
    layer.weight.input_dim, layer.weight.output_dim = 0, 1
    layer.weight_scale = torch.nn.Parameter(scale, requires_grad=False)
    return cast(torch.nn.Module, layer)
