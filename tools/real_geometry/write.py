"""Writes a checkpoint with Gemma 3 4B's real geometry and random weights, in FP8_DYNAMIC and in bf16.

    python -m tools.real_geometry.write FOLDER [--layers 6] [--vision-layers 4] [--vocabulary 262144]

FOLDER/fp8 and FOLDER/bf16 hold the same numbers: the bf16 weights are the decoded FP8 ones. Only the numbers
of layers are smaller than the published model's, unless asked for: 34 and 27. A smaller vocabulary saves
memory where it does not matter.
"""

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from bench.random_checkpoint import FORMATS, Part, normal, text_parts, write_json, write_parts
from tools.real_geometry import tokenizer

IGNORE = ("lm_head", "re:vision_tower.*", "re:multi_modal_projector.*")
GLOBAL_EVERY = 6

TEXT: dict[str, Any] = {
    "model_type": "gemma3_text",
    "dtype": "bfloat16",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "sliding_window": 1024,
    "sliding_window_pattern": GLOBAL_EVERY,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "attention_bias": False,
    "tie_word_embeddings": True,
}

VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "dtype": "bfloat16",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 896,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": False,
}

IMAGE_TOKENS = 256

# Rows of the embedding beyond the tokenizer's, which make its size a multiple of 64.
_SPARE_ROWS = 64


def write(
    folder: Path,
    layers: int = 6,
    vision_layers: int = 4,
    seed: int = 0,
    forms: Sequence[str] = FORMATS,
    vocabulary: int = tokenizer.SIZE,
    vision: Mapping[str, Any] = MappingProxyType({}),
    **text: Any,
) -> None:
    """Writes `folder`/fp8 and `folder`/bf16: weights, configuration, tokenizer, template and processor.

    Args:
        folder: where the two folders go.
        layers: of the text model.
        vision_layers: of the vision tower.
        seed: of the weights.
        forms: which of the two folders to write.
        vocabulary: how many tokens the tokenizer has beside <image_soft_token>.
        vision: what of the vision tower's configuration is to differ from the published one's.
        text: likewise of the text model's.
    """
    config = configuration(layers, vision_layers, vocabulary, vision, **text)
    generator = torch.Generator().manual_seed(seed)
    write_parts(folder, config, _parts(config, generator), IGNORE, forms)
    made = tokenizer.build(vocabulary)
    for form in forms:
        _write_processing(made, folder / form)


def configuration(
    layers: int,
    vision_layers: int,
    vocabulary: int = tokenizer.SIZE,
    vision: Mapping[str, Any] = MappingProxyType({}),
    **text: Any,
) -> dict[str, Any]:
    """What config.json says."""
    start_of_image, end_of_image, image = tokenizer.image_ids(vocabulary)
    rows = {"vocab_size": vocabulary + _SPARE_ROWS}
    kinds = [
        "full_attention" if (layer + 1) % GLOBAL_EVERY == 0 else "sliding_attention"
        for layer in range(layers)
    ]
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "dtype": "bfloat16",
        # The published one's. Without it transformers takes the tokenizer for one of Mistral's.
        "transformers_version": "4.50.0.dev0",
        "text_config": TEXT | rows | {"num_hidden_layers": layers, "layer_types": kinds} | text,
        "vision_config": VISION | {"num_hidden_layers": vision_layers} | dict(vision),
        "mm_tokens_per_image": IMAGE_TOKENS,
        "boi_token_index": start_of_image,
        "eoi_token_index": end_of_image,
        "image_token_index": image,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": [1, 106],
        "pad_token_id": 0,
    }


def _parts(config: dict[str, Any], generator: torch.Generator) -> Iterator[Part]:
    yield _projector(config, generator), {}
    yield from _vision_parts(config["vision_config"], generator)
    yield from text_parts(config["text_config"], generator, "language_model.model", deviation=None)


def _projector(config: dict[str, Any], generator: torch.Generator) -> dict[str, torch.Tensor]:
    vision, text = config["vision_config"]["hidden_size"], config["text_config"]["hidden_size"]
    return {
        "multi_modal_projector.mm_soft_emb_norm.weight": normal(generator, vision),
        # What it makes of a picture is as large as the embeddings of text.
        "multi_modal_projector.mm_input_projection_weight": normal(
            generator, vision, text, deviation=vision**-0.5
        ),
    }


def _vision_parts(config: dict[str, Any], generator: torch.Generator) -> Iterator[Part]:
    """The tower: what embeds patches, then layer by layer. It is not quantized."""
    hidden, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    prefix = "vision_tower.vision_model"
    inputs = config["num_channels"] * patch**2
    patches = (config["image_size"] // patch) ** 2

    def linear(name: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
        weight = normal(generator, outputs, inputs, deviation=inputs**-0.5)
        return {f"{name}.weight": weight, f"{name}.bias": normal(generator, outputs)}

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + normal(generator, hidden), f"{name}.bias": normal(generator, hidden)}

    embedding = linear(f"{prefix}.embeddings.patch_embedding", hidden, inputs)
    name = f"{prefix}.embeddings.patch_embedding.weight"
    embedding[name] = embedding[name].view(hidden, config["num_channels"], patch, patch)
    position = {f"{prefix}.embeddings.position_embedding.weight": normal(generator, patches, hidden)}
    yield embedding | position | norm(f"{prefix}.post_layernorm"), {}
    for layer in range(config["num_hidden_layers"]):
        name = f"{prefix}.encoder.layers.{layer}"
        tensors = norm(f"{name}.layer_norm1") | norm(f"{name}.layer_norm2")
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= linear(f"{name}.self_attn.{projection}", hidden, hidden)
        yield (
            tensors | linear(f"{name}.mlp.fc1", inner, hidden) | linear(f"{name}.mlp.fc2", hidden, inner),
            {},
        )


def _write_processing(made: Any, folder: Path) -> None:
    """Tokenizer, chat template, and the settings of pictures and generation."""
    made.save_pretrained(folder)
    shutil.copyfile(tokenizer.TEMPLATE, folder / "chat_template.jinja")
    half = [0.5, 0.5, 0.5]
    processor = {"processor_class": "Gemma3Processor", "image_seq_length": IMAGE_TOKENS}
    pictures = processor | {
        "image_processor_type": "Gemma3ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": VISION["image_size"], "width": VISION["image_size"]},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
        "do_pan_and_scan": False,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_crop_size": 256,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    write_json(folder / "preprocessor_config.json", pictures)
    write_json(folder / "processor_config.json", processor)
    generation = {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0, "do_sample": False}
    write_json(folder / "generation_config.json", generation)


def main() -> None:
    """Writes the checkpoint into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the folders fp8 and bf16 go")
    parser.add_argument("--layers", type=int, default=6, help="of the text model (default: %(default)s)")
    parser.add_argument("--vision-layers", type=int, default=4, help="of the tower (default: %(default)s)")
    parser.add_argument(
        "--vocabulary",
        type=int,
        default=tokenizer.SIZE,
        help="tokens of the tokenizer (default: %(default)s)",
    )
    arguments = parser.parse_args()
    write(arguments.folder, arguments.layers, arguments.vision_layers, vocabulary=arguments.vocabulary)


if __name__ == "__main__":
    main()
