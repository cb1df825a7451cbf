"""What config.json says about the quantization."""

from typing import Any

from octet.quantize.options import Format, Options
from octet.quantize.plan import Plan

OCTET_METHOD = "octet_fp8"
"""quant_method of checkpoints that compressed-tensors cannot describe: its only 8-bit float is E4M3."""


OUTPUT_TARGET = r"re:.*lm_head$"
"""Beside "Linear", which the output layer is to transformers and is not to vLLM."""


def model_config(config: dict[str, Any], options: Options, plan: Plan) -> dict[str, Any]:
    """The quantized checkpoint's config.json, for a source whose is `config`.

    An output layer that is quantized shares nothing with the embedding any more.
    """
    changed = config | {"quantization_config": quantization_config(options, plan)}
    if plan.vocabulary:
        changed["tie_word_embeddings"] = False
        if isinstance(text := config.get("text_config"), dict):
            changed["text_config"] = text | {"tie_word_embeddings": False}
    return changed


def quantization_config(options: Options, plan: Plan) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint whose linear layers are quantized, but for those ignored.

    E4M3 weights and activations are described as compressed-tensors 0.19 describes FP8_DYNAMIC; other formats
    by Octet's own method, for which Octet's plugin teaches vLLM to load them.
    """
    if options.weights is options.activations is Format.E4M3:
        return _compressed_tensors(plan)
    vocabulary = {"vocabulary": True} if plan.vocabulary else {}
    return {
        "quant_method": OCTET_METHOD,
        "weights": options.weights.value,
        "activations": options.activations.value,
        "ignore": list(plan.ignored),
        **vocabulary,
    }


def _compressed_tensors(plan: Plan) -> dict[str, Any]:
    common: dict[str, Any] = {
        "actorder": None,
        "block_structure": None,
        "group_size": None,
        "num_bits": 8,
        "observer_kwargs": {},
        "scale_dtype": None,
        "symmetric": True,
        "type": "float",
        "zp_dtype": None,
    }
    group = {
        "format": "float-quantized",
        "input_activations": common | {"dynamic": True, "observer": None, "strategy": "token"},
        "output_activations": None,
        # Whatever was chosen: `ignore` names all others, and vLLM would match patterns with its own names.
        "targets": ["Linear", *([OUTPUT_TARGET] if plan.vocabulary else [])],
        "weights": common | {"dynamic": False, "observer": "memoryless_minmax", "strategy": "channel"},
    }
    return {
        "config_groups": {"group_0": group},
        "format": "float-quantized",
        "global_compression_ratio": None,
        "ignore": list(plan.ignored),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.19.0",
    }
