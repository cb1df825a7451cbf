"""Writes a checkpoint of Gemma 3 1B's shape with random weights, in FP8_DYNAMIC and in bf16.

    python -m bench.random_checkpoint FOLDER      # FOLDER/fp8 (1.3 GB) and FOLDER/bf16 (2.0 GB)

Both hold the same numbers: the bf16 weights are the decoded FP8 ones. Speed does not depend on them. There is
no tokenizer: the engine is to be started with --skip-tokenizer-init and to be asked in token ids.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from octet import ops

FORMATS = ("fp8", "bf16")

CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "dtype": "bfloat16",
    "vocab_size": 262144,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}

_FP8_DYNAMIC: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


# The tensors that stay bf16, and those of linear layers, which FP8_DYNAMIC quantizes.
Part = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def write(folder: Path, layers: int = 26, seed: int = 0) -> None:
    """Writes `folder`/fp8 and `folder`/bf16 in the shape of Gemma 3 1B."""
    config = CONFIG | {"num_hidden_layers": layers}
    generator = torch.Generator().manual_seed(seed)
    write_parts(folder, config, text_parts(config, generator))


def write_parts(
    folder: Path,
    config: dict[str, Any],
    parts: Iterable[Part],
    ignore: Sequence[str] = ("lm_head",),
    forms: Sequence[str] = FORMATS,
) -> None:
    """Writes `folder`/fp8 and `folder`/bf16, a file for each part, so that memory holds one at a time.

    Args:
        folder: where the two folders go.
        config: what config.json says of the bf16 checkpoint.
        parts: the weights.
        ignore: what FP8_DYNAMIC leaves out, as compressed-tensors writes it.
        forms: which of FORMATS to write.
    """
    quantization = {"quantization_config": _FP8_DYNAMIC | {"ignore": list(ignore)}}
    for form in forms:
        (folder / form).mkdir(parents=True, exist_ok=True)
        write_json(folder / form / "config.json", config | (quantization if form == "fp8" else {}))
    weight_maps: dict[str, dict[str, str]] = {name: {} for name in FORMATS}
    for part, (plain, linear) in enumerate(parts):
        file = f"model-{part:05}.safetensors"
        tensors = {"fp8": dict(plain), "bf16": dict(plain)}
        for name, weight in linear.items():
            codes, scales = ops.per_token_quant_fp8(weight)
            scales = scales.to(torch.bfloat16)
            tensors["fp8"] |= {name: codes, f"{name}_scale": scales}
            tensors["bf16"][name] = codes.to(torch.bfloat16) * scales
        for form in forms:
            save_file(tensors[form], folder / form / file, metadata={"format": "pt"})
            weight_maps[form] |= dict.fromkeys(tensors[form], file)
    for form in forms:
        index = {"metadata": {}, "weight_map": weight_maps[form]}
        write_json(folder / form / "model.safetensors.index.json", index)


def text_parts(
    config: dict[str, Any], generator: torch.Generator, prefix: str = "model", deviation: float | None = 0.02
) -> Iterator[Part]:
    """The weights of a Gemma 3 text model: of the embedding first, then layer by layer.

    Args:
        config: of the text model.
        generator: where the numbers come from.
        prefix: what the tensors' names begin with.
        deviation: of the linear layers' weights; None takes 1 / sqrt(inputs), which keeps what a layer
            adds as large as what comes in.
    """
    hidden, head_dim = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    feed_forward = config["intermediate_size"]

    yield (
        {
            f"{prefix}.embed_tokens.weight": normal(generator, config["vocab_size"], hidden),
            f"{prefix}.norm.weight": normal(generator, hidden),
        },
        {},
    )
    for layer in range(config["num_hidden_layers"]):
        norms = {
            "input_layernorm": hidden,
            "post_attention_layernorm": hidden,
            "pre_feedforward_layernorm": hidden,
            "post_feedforward_layernorm": hidden,
            "self_attn.q_norm": head_dim,
            "self_attn.k_norm": head_dim,
        }
        linear = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (feed_forward, hidden),
            "mlp.up_proj": (feed_forward, hidden),
            "mlp.down_proj": (hidden, feed_forward),
        }
        name = f"{prefix}.layers.{layer}"
        yield (
            {f"{name}.{norm}.weight": normal(generator, size) for norm, size in norms.items()},
            {
                f"{name}.{part}.weight": normal(generator, *shape, deviation=deviation or shape[1] ** -0.5)
                for part, shape in linear.items()
            },
        )


def normal(generator: torch.Generator, *shape: int, deviation: float = 0.02) -> torch.Tensor:
    """Normally distributed numbers in bf16."""
    return torch.randn(shape, generator=generator).mul_(deviation).to(torch.bfloat16)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file as checkpoints have them."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Writes the checkpoint into the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Write a random checkpoint of Gemma 3 1B's shape.")
    parser.add_argument("folder", type=Path, help="where the folders fp8 and bf16 go")
    parser.add_argument("--layers", type=int, default=26, help="default: %(default)s")
    arguments = parser.parse_args()
    write(arguments.folder, arguments.layers)


if __name__ == "__main__":
    main()
