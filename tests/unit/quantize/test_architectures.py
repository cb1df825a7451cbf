"""The table of linear layers against the models that transformers builds."""

import contextlib
from pathlib import Path

import pytest
import torch

from octet.quantize import architectures
from octet.quantize.errors import QuantizeError

TINY = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def build(name: str) -> torch.nn.Module:
    """A small model of the architecture, without memory for its weights."""
    import transformers

    model_class = getattr(transformers, name)
    if name == "LlavaForConditionalGeneration":
        config = model_class.config_class(
            text_config=transformers.LlamaConfig(**TINY),
            vision_config=transformers.CLIPVisionConfig(**TINY_VISION),
        )
    elif name.endswith("ForConditionalGeneration"):
        config = model_class.config_class(
            text_config=TINY, vision_config=TINY_VISION | {"vision_use_head": False}, mm_tokens_per_image=4
        )
    else:
        config = model_class.config_class(**TINY)
    with torch.device("meta"), contextlib.suppress(RuntimeWarning):
        model: torch.nn.Module = model_class(config)
    return model


@pytest.mark.parametrize("name", architectures.names())
def test_knows_the_linear_layers_of_transformers_in_their_order(name: str) -> None:
    architecture = architectures.find(name, Path("config.json"))
    model = build(name)
    linear = [layer for layer, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) >= 2 * 4 + 1
    positions = [architecture.position(layer) for layer in linear]
    assert None not in positions, linear[positions.index(None)]
    assert positions == sorted(positions)  # type: ignore[type-var]
    others = [layer for layer, module in model.named_modules() if not isinstance(module, torch.nn.Linear)]
    assert [layer for layer in others if architecture.position(layer) is not None] == []


@pytest.mark.parametrize(
    "layer",
    [
        "vision_tower.vision_model.encoder.layers.26.self_attn.out_proj",
        "model.vision_tower.encoder.layers.0.mlp.fc2",
        "language_model.model.layers.0.mlp.down_proj",
        "model.language_model.layers.47.self_attn.k_proj",
        "language_model.lm_head",
        "lm_head",
    ],
)
def test_knows_gemma_3_by_published_names_and_by_transformers(layer: str) -> None:
    architecture = architectures.find("Gemma3ForConditionalGeneration", Path("config.json"))
    assert architecture.position(layer) is not None


@pytest.mark.parametrize(
    "layer",
    [
        "language_model.model.embed_tokens",
        "model.layers.0.self_attn.q_norm",
        "xlanguage_model.model.layers.0.mlp.up_proj",
        "language_model.model.layers.0.mlp.up_proj.lora_a",
        "language_model.model.layers.x.mlp.up_proj",
    ],
)
def test_nothing_else_is_a_linear_layer(layer: str) -> None:
    architecture = architectures.find("Gemma3ForConditionalGeneration", Path("config.json"))
    assert architecture.position(layer) is None


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(QuantizeError, match=r"^dir/config.json: .* T5Model is not known; known are .*Llama"):
        architectures.find("T5Model", Path("dir/config.json"))
