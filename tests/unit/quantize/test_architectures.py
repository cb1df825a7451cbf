"""The table of linear layers; `tests/quantize/test_families.py` compares it with the models that transformers
builds.
"""

import pytest

from octet.quantize import architectures
from octet.quantize.architectures import Architecture
from octet.quantize.safetensors_file import StoredTensor


def known(name: str) -> Architecture:
    architecture = architectures.find(name)
    assert architecture is not None
    return architecture


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
    assert known("Gemma3ForConditionalGeneration").position(layer) is not None


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
    assert known("Gemma3ForConditionalGeneration").position(layer) is None


@pytest.mark.parametrize("layer", ["model.layers.3.mlp.up_proj", "layers.3.mlp.up_proj"])
def test_embedding_models_lack_what_precedes_the_layers(layer: str) -> None:
    assert known("Qwen3ForCausalLM").position(layer) == (0, 3, 5)


@pytest.mark.parametrize(
    ("layer", "position"),
    [
        ("model.layers.1.block_sparse_moe.experts.7.w2", (0, 1, 6, 7)),
        ("model.layers.1.block_sparse_moe.experts.w2", None),
        ("model.layers.1.block_sparse_moe.experts.x.w2", None),
        ("model.layers.1.block_sparse_moe.experts.7.w4", None),
    ],
)
def test_experts_are_numbered(layer: str, position: tuple[int, ...] | None) -> None:
    assert known("MixtralForCausalLM").position(layer) == position


@pytest.mark.parametrize(("name", "gate"), [("Mixtral", "block_sparse_moe.gate"), ("Qwen3Moe", "mlp.gate")])
def test_routers_stay(name: str, gate: str) -> None:
    tensors = [
        StoredTensor(f"model.layers.0.{layer}.weight", "BF16", (64, 64), 0)
        for layer in (gate, "self_attn.q_proj")
    ]
    found = architectures.anatomy(known(f"{name}ForCausalLM"), tensors)
    assert [layer.kept is None for layer in found.layers] == [True, False]


def test_the_table_lacks_what_transformers_is_asked_for() -> None:
    assert architectures.find("T5Model") is None
