"""Checkpoints and adapters that tests make out of the one under test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RANK = 4
EMBEDDING_CONTEXT = 64

# Gemma 3's turns, with reasoning and without tools: as a model that thinks would be shipped.
THINKING_TEMPLATE = """
{{- bos_token -}}
{%- for message in messages -%}
  {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' -}}
  {%- if message['reasoning'] is defined -%}
    {{- '<think>' + message['reasoning'] + '</think>' -}}
  {%- endif -%}
  {%- for part in message['content'] -%}
    {{- '<start_of_image>' if part['type'] == 'image' else part['text'] -}}
  {%- endfor -%}
  {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{{- '<start_of_turn>model\n<think>' -}}
{%- if not enable_thinking -%}
  {{- '</think>' -}}
{%- endif -%}
"""

# What the template published with Gemma 3 does: it knows no tools, takes the user and the model in turn only,
# reads the first text of a system message alone, which it puts before the first turn, and trims texts.
STRICT_TEMPLATE = """
{%- set opening, turns = '', messages -%}
{%- if messages[0].role == 'system' -%}
  {%- set said = messages[0].content -%}
  {%- set opening = (said if said is string else said[0].text) + '\n\n' -%}
  {%- set turns = messages[1:] -%}
{%- endif -%}
{{- bos_token -}}
{%- for message in turns -%}
  {%- set wanted = 'assistant' if loop.index0 % 2 else 'user' -%}
  {%- if message.role != wanted -%}
    {{- raise_exception('Turns must be of user and assistant alternately, not of ' + message.role) -}}
  {%- endif -%}
  {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' -}}
  {{- opening if loop.first -}}
  {%- if message['content'] is string -%}
    {{- message['content'] | trim -}}
  {%- else -%}
    {%- for item in message['content'] -%}
      {{- '<start_of_image>' if item.type == 'image' -}}
      {{- item.text | trim if item.type == 'text' -}}
    {%- endfor -%}
  {%- endif -%}
  {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{{- '<start_of_turn>model\n' if add_generation_prompt -}}
"""


def write_templated_checkpoint(model: Path, folder: Path, template: str | None) -> None:
    """Copies a checkpoint that has another chat template, or none."""
    folder.mkdir()
    for file in model.iterdir():
        if file.is_file() and file.name != "chat_template.jinja":
            (folder / file.name).symlink_to(file.resolve())
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


def write_thinking_checkpoint(model: Path, folder: Path) -> None:
    """Copies a checkpoint whose chat template takes `enable_thinking` and whose tokenizer has <think> tokens.

    They take the places of two bytes that never occur in UTF-8.
    """
    folder.mkdir()
    for file in model.iterdir():
        if file.is_file() and file.name not in ("chat_template.jinja", "tokenizer.json"):
            (folder / file.name).symlink_to(file.resolve())
    (folder / "chat_template.jinja").write_text(THINKING_TEMPLATE)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for byte, token in (("\u00f8", "<think>"), ("\u00f9", "</think>")):
        vocabulary[token] = vocabulary.pop(byte)
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": vocabulary[token], "content": token, **flags})
    tokenizer["added_tokens"].sort(key=lambda added: added["id"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def write_adapter(model: Path, folder: Path, *, strength: float) -> None:
    """Writes a LoRA adapter in PEFT's format, of random directions; with strength 0 it changes nothing."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text())["text_config"]
    hidden, heads, size = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    shapes = {"q_proj": (hidden, heads * size), "o_proj": (heads * size, hidden)}
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (inputs, outputs) in shapes.items():
            place = f"base_model.model.language_model.model.layers.{layer}.self_attn.{name}"
            down = torch.randn(RANK, inputs, generator=generator)
            tensors[f"{place}.lora_A.weight"] = down.bfloat16()
            up = torch.randn(outputs, RANK, generator=generator) * strength
            tensors[f"{place}.lora_B.weight"] = up.bfloat16()
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(_peft_config(list(shapes))))


def _peft_config(targets: Sequence[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": targets,
        "bias": "none",
    }


def write_embedding_checkpoint(model: Path, folder: Path) -> None:
    """Writes a small Qwen3 with random weights that embeds: as sentence-transformers ships such models.

    It takes the last token's state, and gives shorter vectors on request. The tokenizer is that of `model`.
    """
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to((model / name).resolve())
    hidden, heads, size, inner, layers = 64, 2, 64, 128, 2
    words = json.loads((model / "config.json").read_text())["text_config"]["vocab_size"]
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "head_dim": size,
        "vocab_size": words,
        "max_position_embeddings": EMBEDDING_CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "matryoshka_dimensions": [8, 16],
    }
    (folder / "config.json").write_text(json.dumps(config))
    parts = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (words, hidden), "norm": (hidden,)}
    for layer in range(layers):
        place = f"layers.{layer}"
        shapes |= {
            f"{place}.self_attn.q_proj": (heads * size, hidden),
            f"{place}.self_attn.k_proj": (size, hidden),
            f"{place}.self_attn.v_proj": (size, hidden),
            f"{place}.self_attn.o_proj": (hidden, heads * size),
            f"{place}.self_attn.q_norm": (size,),
            f"{place}.self_attn.k_norm": (size,),
            f"{place}.mlp.gate_proj": (inner, hidden),
            f"{place}.mlp.up_proj": (inner, hidden),
            f"{place}.mlp.down_proj": (hidden, inner),
            f"{place}.input_layernorm": (hidden,),
            f"{place}.post_attention_layernorm": (hidden,),
        }
    generator = torch.Generator().manual_seed(11)
    tensors = {
        f"model.{name}.weight": (
            torch.randn(shape, generator=generator) / shape[-1] ** 0.5
            if len(shape) > 1
            else torch.ones(shape)
        ).bfloat16()
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
