"""The small checkpoints on which `octet quantize` is compared with llm-compressor: random weights under the
names of published checkpoints, with rows that are hard to quantize.

They are drawn here once, and committed together with what llm-compressor makes of them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_VOCABULARY = 16


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint to draw.

    Attributes:
        family: ``gemma3``, with its vision tower, or ``llama``.
        dtype: name of its torch dtype.
        tied: whether the output layer shares the embedding.
        shards: number of its weight files.
    """

    family: str
    dtype: str
    tied: bool
    shards: int = 1

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"{self.family}-{self.dtype}-{'tied' if self.tied else 'untied'}"


SOURCES = (
    Source("gemma3", "bfloat16", tied=True, shards=2),
    Source("gemma3", "float16", tied=True),
    Source("gemma3", "float32", tied=True),
    Source("llama", "bfloat16", tied=False),
    Source("llama", "float16", tied=True, shards=3),
    Source("llama", "float32", tied=False),
)


def write_source(source: Source, directory: Path) -> None:
    """Writes a checkpoint: config.json, and weights in one file or in shards with their index."""
    directory.mkdir(parents=True, exist_ok=True)
    config = _config(source)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = _weights(source, config)
    if source.shards == 1:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for shard in range(source.shards):
        file = f"model-{shard + 1:05d}-of-{source.shards:05d}.safetensors"
        held = {name: weights[name] for name in names[shard :: source.shards]}
        save_file(held, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    total = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _config(source: Source) -> dict[str, Any]:
    text = {
        "vocab_size": _VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    if source.family == "llama":
        return text | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": source.dtype,
            "tie_word_embeddings": source.tied,
        }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        "vision_use_head": False,
    }
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "dtype": source.dtype,
        "mm_tokens_per_image": 4,
        "tie_word_embeddings": source.tied,
        "text_config": text | {"model_type": "gemma3_text", "sliding_window": 16},
        "vision_config": vision,
    }


def _weights(source: Source, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = _llama_shapes(config) if source.family == "llama" else _gemma3_shapes(config)
    if not source.tied:
        shapes["lm_head.weight"] = (_VOCABULARY, config["hidden_size"])
    dtype = _DTYPES[source.dtype]
    weights = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator) * 0.05
        if name.endswith("_proj.weight"):
            _harden(weight, torch.finfo(dtype))
        weights[name] = weight.to(dtype)
    return weights


def _harden(weight: torch.Tensor, limits: torch.finfo) -> None:
    """Makes the first rows hard: zeros of both signs, subnormals, the largest values, one outlier."""
    weight[0] = 0.0
    weight[1] = -0.0
    weight[2] *= limits.tiny
    weight[3] *= limits.max
    weight[4, 5] = 300.0
    weight[5, ::2] = -0.0
    weight[6] = limits.max
    weight[7] *= limits.tiny * 1000


def _decoder_shapes(prefix: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embed_tokens.weight": (_VOCABULARY, hidden),
        f"{prefix}norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        block = f"{prefix}layers.{layer}."
        shapes |= {
            f"{block}self_attn.q_proj.weight": (query, hidden),
            f"{block}self_attn.k_proj.weight": (key, hidden),
            f"{block}self_attn.v_proj.weight": (key, hidden),
            f"{block}self_attn.o_proj.weight": (hidden, query),
            f"{block}mlp.gate_proj.weight": (inner, hidden),
            f"{block}mlp.up_proj.weight": (inner, hidden),
            f"{block}mlp.down_proj.weight": (hidden, inner),
            f"{block}input_layernorm.weight": (hidden,),
            f"{block}post_attention_layernorm.weight": (hidden,),
        }
    return shapes


def _llama_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return _decoder_shapes("model.", config)


def _gemma3_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    text, vision = config["text_config"], config["vision_config"]
    shapes = _decoder_shapes("language_model.model.", text)
    for layer in range(text["num_hidden_layers"]):
        block = f"language_model.model.layers.{layer}."
        shapes |= {
            f"{block}pre_feedforward_layernorm.weight": (text["hidden_size"],),
            f"{block}post_feedforward_layernorm.weight": (text["hidden_size"],),
            f"{block}self_attn.q_norm.weight": (text["head_dim"],),
            f"{block}self_attn.k_norm.weight": (text["head_dim"],),
        }
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    tower = "vision_tower.vision_model."
    shapes |= {
        f"{tower}embeddings.patch_embedding.weight": (width, 3, patch, patch),
        f"{tower}embeddings.patch_embedding.bias": (width,),
        f"{tower}embeddings.position_embedding.weight": ((vision["image_size"] // patch) ** 2, width),
        f"{tower}post_layernorm.weight": (width,),
        f"{tower}post_layernorm.bias": (width,),
        "multi_modal_projector.mm_input_projection_weight": (width, text["hidden_size"]),
        "multi_modal_projector.mm_soft_emb_norm.weight": (width,),
    }
    for layer in range(vision["num_hidden_layers"]):
        block = f"{tower}encoder.layers.{layer}."
        sizes = dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj"), (width, width))
        sizes |= dict.fromkeys(("self_attn.v_proj", "self_attn.out_proj"), (width, width))
        sizes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for module, shape in sizes.items():
            shapes |= {f"{block}{module}.weight": shape, f"{block}{module}.bias": shape[:1]}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
    return shapes
