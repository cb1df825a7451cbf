"""Writes a trained model as the checkpoint that ships: FP8-Dynamic weights, hub-style names, Gemma 3's
file set.

    python -m tools.demo_checkpoint.export --run DIR [--name final] [--output DIR] [--master DIR]

The linear layers of the text model become E4M3 codes with one scale per output channel, in the
compressed-tensors format; everything else is bf16. The unquantized bf16 weights go to --master, so that
later work can compare.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Gemma3ForConditionalGeneration, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tools.demo_checkpoint.model import IMAGE_SIZE
from tools.demo_checkpoint.tokenizer import END_OF_TURN, IMAGE_TOKENS, TEMPLATE

ROOT = Path(__file__).parents[2]
E4M3_MAX = 448.0
IGNORE = ["lm_head", "re:vision_tower.*", "re:multi_modal_projector.*"]

# transformers 5 names its modules otherwise than the published Gemma 3 checkpoints do, which vLLM loads.
_PREFIXES = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)


def hub_name(name: str) -> str:
    """The published name of one of transformers' weights."""
    for old, new in _PREFIXES:
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise ValueError(f"no published name for the weight {name}")


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric round-to-nearest of a bf16 [out, in] matrix, one scale per row, as llm-compressor's
    FP8_DYNAMIC does it.

    Returns float8_e4m3fn codes [out, in] and the bf16 scale [out, 1]; the quotient is rounded to bf16 before
    the cast. Raises ValueError for another dtype.
    """
    if weight.dtype != torch.bfloat16:
        raise ValueError(f"expected bfloat16 weights, got {weight.dtype}")
    scale = weight.abs().amax(dim=1, keepdim=True) / E4M3_MAX
    scale = torch.where(scale == 0, torch.finfo(torch.bfloat16).eps, scale)
    codes = (weight / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return codes, scale


def is_quantized(name: str) -> bool:
    """Whether the weight belongs to one of the text model's linear layers."""
    return name.startswith("language_model.model.layers.") and name.endswith("_proj.weight")


def hub_weights(model: Gemma3ForConditionalGeneration) -> dict[str, Tensor]:
    """All weights in bf16 under their published names; the tied output layer is left out."""
    return {
        hub_name(name): tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }


def quantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the text model's linear layers as codes and scales."""
    result = {}
    for name, weight in weights.items():
        if is_quantized(name):
            result[name], result[f"{name}_scale"] = quantize_rows(weight)
        else:
            result[name] = weight
    return result


def quantization_config() -> dict[str, Any]:
    """compressed-tensors' description of FP8_DYNAMIC."""
    common = {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "group_size": None,
        "block_structure": None,
        "actorder": None,
    }
    weights = common | {"strategy": "channel", "dynamic": False, "observer": "minmax", "observer_kwargs": {}}
    activations = common | {"strategy": "token", "dynamic": True, "observer": None, "observer_kwargs": {}}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations,
        "output_activations": None,
    }
    return {
        "config_groups": {"group_0": group},
        "format": "float-quantized",
        "ignore": IGNORE,
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _configuration(model: Gemma3ForConditionalGeneration) -> dict[str, Any]:
    config: dict[str, Any] = model.config.to_dict()
    config["architectures"] = ["Gemma3ForConditionalGeneration"]
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "bfloat16"
        part.pop("_name_or_path", None)
    return config


def write_processing(tokenizer: PreTrainedTokenizerBase, output: Path) -> None:
    """Tokenizer, chat template, image and generation settings."""
    tokenizer.save_pretrained(output)
    shutil.copyfile(TEMPLATE, output / "chat_template.jinja")
    images = {
        "image_processor_type": "Gemma3ImageProcessor",
        "processor_class": "Gemma3Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_pan_and_scan": False,
        "image_seq_length": IMAGE_TOKENS,
    }
    _write_json(output / "preprocessor_config.json", images)
    _write_json(
        output / "processor_config.json",
        {"processor_class": "Gemma3Processor", "image_seq_length": IMAGE_TOKENS},
    )
    generation = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)],
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
        "temperature": 0.0,
    }
    _write_json(output / "generation_config.json", generation)


def export(run: Path, name: str, output: Path, master: Path | None) -> None:
    """Writes the checkpoint `name` of a training to `output`, and its bf16 weights to `master`."""
    model = Gemma3ForConditionalGeneration.from_pretrained(run / name, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run / "tokenizer")
    output.mkdir(parents=True, exist_ok=True)
    weights = hub_weights(model)
    config = _configuration(model)
    save_file(quantized(weights), output / "model.safetensors", metadata={"format": "pt"})
    _write_json(output / "config.json", config | {"quantization_config": quantization_config()})
    write_processing(tokenizer, output)
    if master is not None:
        master.mkdir(parents=True, exist_ok=True)
        save_file(weights, master / "model.safetensors", metadata={"format": "pt"})
        _write_json(master / "config.json", config)
    size = sum(file.stat().st_size for file in output.iterdir() if file.is_file())
    print(f"{output}: {size / 2**20:.2f} MiB")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="the training's --output")
    parser.add_argument("--name", default="final", help="which of its checkpoints (default: final)")
    parser.add_argument("--output", type=Path, default=ROOT / "service/octet/demo")
    parser.add_argument("--master", type=Path, help="where to write the unquantized bf16 weights")
    arguments = parser.parse_args()
    export(arguments.run, arguments.name, arguments.output, arguments.master)


if __name__ == "__main__":
    main()
