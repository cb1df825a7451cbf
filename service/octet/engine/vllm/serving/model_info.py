"""What a loaded model is, in the service's terms."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octet.engine.types import ModelInfo, Quantization, Service
from octet.engine.vllm.serving.embedding import vectors_of
from octet.engine.vllm.serving.image_costs import ImageCosts
from octet.loading import said
from octet.loading.said import Said
from octet.pictures.plan import ImageView, PanAndScan

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from octet.engine.vllm.launch.args import EngineSettings

# The model card's "total output context"; the checkpoints themselves do not say it.
GEMMA3_OUTPUT_LIMIT = 8192

_CPU_STEP_TOKENS = 512

FP8_DYNAMIC = "FP8_DYNAMIC"
"""One scale per output channel of a weight, one per token of an activation that is quantized as it comes."""


def describe_model(
    config: "VllmConfig",
    settings: "EngineSettings",
    active_kernels: tuple[str, ...],
    vocabulary_format: str,
    images: ImageCosts,
    longest_token: int,
    services: tuple[Service, ...],
    picture_mark: str,
) -> ModelInfo:
    """Describes the model that an engine with `config` has loaded.

    Args:
        config: vLLM's.
        settings: Octet's own.
        active_kernels: as the workers report them.
        vocabulary_format: of the layer that makes logits, as they report it.
        images: what pictures take.
        longest_token: bytes of the longest token's text.
        services: what it is for.
        picture_mark: as ModelInfo has it.
    """
    embeds = Service.EMBEDDING in services
    model = config.model_config
    source = source_name(model.model)
    names = settings.engine.served_model_name or source
    return ModelInfo(
        names=(names,) if isinstance(names, str) else tuple(names),
        source=source,
        takes_images=images.most_images > 0,
        context_window=model.max_model_len,
        output_token_limit=0 if embeds else _output_token_limit(model, settings.max_output_tokens),
        quantization=quantization(getattr(model.hf_config, "quantization_config", None)),
        active_kernels=active_kernels,
        vocabulary_format=vocabulary_format,
        max_images=images.most_images,
        tokens_per_image=images.tokens,
        vocabulary_size=model.get_vocab_size(),
        pans_and_scans=images.most_images > 0 and images.pans_and_scans,
        tokens_per_cropped_image=images.cropped_tokens,
        crops_by_default=images.crops_by_default,
        visual_tokens_per_image=images.visual_tokens,
        adapters=tuple(settings.adapters),
        takes_priorities=config.scheduler_config.policy == "priority",
        longest_token=longest_token,
        step_tokens=_step_tokens(config),
        max_sequences=config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size,
        limits_reasoning=config.reasoning_config is not None and config.reasoning_config.enabled,
        image_view=_image_view(config) if images.most_images > 0 else None,
        services=services,
        vectors=vectors_of(model) if embeds else None,
        picture_mark=picture_mark,
    )


def _step_tokens(config: "VllmConfig") -> int:
    """On CPUs a step computes as much as it can in a short time, hundreds of tokens; see `Pace`."""
    most = int(config.scheduler_config.max_num_batched_tokens)
    return min(most, _CPU_STEP_TOKENS) if config.device_config.device_type == "cpu" else most


def source_name(model: str) -> str:
    """A hub id as it is, of a local directory its name."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def quantization(config: Any) -> Quantization | None:
    """Reads a checkpoint's `quantization_config`; None for a model that is not quantized.

    Raises:
        ValueError: vLLM could not read it; the message is one line.
    """
    if config is None:
        return None
    return describe_scheme(said.read(config if isinstance(config, Mapping) else config.to_dict()))


def describe_scheme(quantized: Said) -> Quantization:
    """What a `quantization_config` says, as ModelInfo has it."""
    if quantized.pair is not None:
        return Quantization(FP8_DYNAMIC, quantized.pair.weights, quantized.pair.activations)
    if not quantized.groups:
        return Quantization((quantized.method or "unknown").upper(), "", "")
    weights, activations = quantized.groups[0].weights, quantized.groups[0].activations
    if activations is None:
        return Quantization(quantized.format or quantized.method, weights.format, "")
    per_token = activations.strategy == "token" and activations.dynamic
    fp8 = weights.format == activations.format == "e4m3"
    scheme = quantized.format or quantized.method
    if fp8 and weights.strategy == "channel" and per_token:
        scheme = FP8_DYNAMIC
    return Quantization(scheme, weights.format, activations.format)


def _output_token_limit(model: Any, wanted: int | None) -> int:
    limit: int | None = wanted
    if limit is None and model.hf_config.model_type.startswith("gemma3"):
        limit = GEMMA3_OUTPUT_LIMIT
    if limit is None:
        limit = model.get_diff_sampling_param().get("max_tokens")
    context: int = model.max_model_len
    return min(limit or context, context)


def _image_view(config: "VllmConfig") -> ImageView | None:
    """What the processor makes of a picture. Only of Gemma 3's is it known that it is always one size."""
    model = config.model_config
    if model.hf_config.model_type != "gemma3":
        return None
    from vllm.transformers_utils.processor import cached_image_processor_from_config

    processor = cached_image_processor_from_config(model)
    flags = model.multimodal_config.mm_processor_kwargs or {}
    if not processor.do_resize or flags.keys() & {"size", "do_resize", "images_kwargs"}:
        return None

    def setting(name: str, default: Any) -> Any:
        return flags.get(name, getattr(processor, name, None) or default)

    return ImageView(
        width=processor.size["width"],
        height=processor.size["height"],
        pan_and_scan=PanAndScan(
            max_crops=setting("pan_and_scan_max_num_crops", 4),
            min_ratio=setting("pan_and_scan_min_ratio_to_activate", 1.2),
            min_side=setting("pan_and_scan_min_crop_size", 256),
            by_default=bool(setting("do_pan_and_scan", False)),
        ),
    )
