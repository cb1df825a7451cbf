"""What is quantized of each family, against the family's recipe and the classes of transformers' modules."""

import json
import re
from typing import Any

import pytest
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from octet.quantize import anatomy, architectures
from octet.quantize.layers import OUTPUT_LAYER, Anatomy
from octet.quantize.options import DEFAULT_IGNORE
from octet.quantize.safetensors_file import StoredTensor
from tests.quantize.families import FAMILIES, NO_EXPERTS, TEXT, Family


def config_of(family: Family) -> dict[str, Any]:
    """The family's config.json."""
    config = getattr(transformers, family.architecture).config_class(**family.config)
    found: dict[str, Any] = json.loads(config.to_json_string())
    return found


def build(family: Family) -> transformers.PreTrainedModel:
    """The family's model, without memory for its weights."""
    return anatomy.build(family.architecture, config_of(family))


def as_stored(model: transformers.PreTrainedModel, names: set[str]) -> dict[str, torch.Tensor]:
    """Those of the model's parameters, as transformers writes them into checkpoints."""
    state = {name: tensor for name, tensor in model.state_dict().items() if name in names}
    stored: dict[str, torch.Tensor] = revert_weight_conversion(model, state)
    return stored


def stored_tensors(model: transformers.PreTrainedModel) -> list[StoredTensor]:
    tied = set(model.all_tied_weights_keys)
    return [
        StoredTensor(name, "BF16", tuple(tensor.shape), 0)
        for name, tensor in as_stored(model, model.state_dict().keys() - tied).items()
    ]


def by_recipe(family: Family, model: transformers.PreTrainedModel) -> set[str]:
    """Names in the model of what the recipe quantizes."""

    def stays(module: str) -> bool:
        return any(
            re.match(each.removeprefix("re:"), module) if each.startswith("re:") else each == module
            for each in family.stays
        )

    weights = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not stays(name):
            weights.add(f"{name}.weight")
        stacks = {f"{name}.{key}" for key, value in module.named_parameters(recurse=False) if value.ndim == 3}
        if name.endswith("experts"):
            weights |= stacks
    return weights


def quantized(found: Anatomy) -> set[str]:
    """Tensors that are quantized, output layers aside."""
    assert found.unknown == ()
    names = {layer.tensor for layer in found.layers if layer.kept is None}
    return {name for name in names if name.split(".")[-2:] != [OUTPUT_LAYER, "weight"]}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.architecture)
def test_agrees_with_the_recipe(family: Family) -> None:
    """By the names that checkpoints are published with, as the model has them, and without the first part."""
    model = build(family)
    expected = by_recipe(family, model)
    found = anatomy.dissect(model, family.architecture, stored_tensors(model))
    assert quantized(found) == set(as_stored(model, expected))
    for without in ("", "model."):
        tensors = [
            StoredTensor(name.removeprefix(without), "BF16", tuple(tensor.shape), 0)
            for name, tensor in model.state_dict().items()
            if name not in model.all_tied_weights_keys
        ]
        found = anatomy.dissect(model, family.architecture, tensors)
        assert quantized(found) == {name.removeprefix(without) for name in expected}


def of_llama(*names: str, shape: tuple[int, ...] = (64, 64)) -> list[StoredTensor]:
    names = (*names, "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    return [StoredTensor(name, "BF16", shape, 0) for name in names]


@pytest.mark.parametrize(
    ("architecture", "model_type", "name"),
    [
        ("Qwen2ForRewardModel", "qwen2", "score.0.weight"),
        ("Qwen2ForProcessRewardModel", "qwen2", "score.2.weight"),
        ("LlamaForSomethingNew", "llama", "value_head.summary.weight"),
    ],
)
def test_heads_that_transformers_does_not_have_stay(architecture: str, model_type: str, name: str) -> None:
    config = {**TEXT, "architectures": [architecture], "model_type": model_type}
    found = anatomy.describe(architecture, config, of_llama(name, "lm_head.weight"))
    assert found.unknown == ()
    kept = {layer.tensor: layer.kept is not None for layer in found.layers}
    assert kept == {name: True, "lm_head.weight": False, "model.layers.0.mlp.up_proj.weight": False}


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForRewardModel"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.side_proj.weight", (64, 64)),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 64, 64)),
        ("model.layers.0.ffn.experts.mlp.w1", (256, 64)),
    ],
)
def test_what_has_no_place_in_a_block_is_unknown(
    architecture: str, name: str, shape: tuple[int, ...]
) -> None:
    model_type = "llama" if architecture.startswith("Llama") else "qwen2"
    config = {**TEXT, "architectures": [architecture], "model_type": model_type}
    tensors = [*of_llama(), StoredTensor(name, "BF16", shape, 0)]
    assert anatomy.describe(architecture, config, tensors).unknown == (name,)
    known = architectures.find("LlamaForCausalLM")
    assert known is not None
    assert architectures.anatomy(known, tensors).unknown == (name,)


def by_default(found: Anatomy) -> list[str]:
    """What is quantized where nobody says otherwise."""
    patterns = [pattern.removeprefix("re:") for pattern in DEFAULT_IGNORE]
    return [
        layer.tensor
        for layer in found.layers
        if layer.kept is None and not any(re.match(pattern, layer.modules[0]) for pattern in patterns)
    ]


@pytest.mark.parametrize(
    "family",
    list(
        {
            family.architecture: family
            for family in reversed(FAMILIES)
            if architectures.find(family.architecture)
        }.values()
    ),
    ids=lambda family: family.architecture,
)
def test_the_table_says_what_transformers_does(family: Family) -> None:
    known = architectures.find(family.architecture)
    assert known is not None
    model = build(family)
    tensors = stored_tensors(model)
    table = architectures.anatomy(known, tensors)
    asked = anatomy.dissect(model, family.architecture, tensors)
    assert table.unknown == asked.unknown == ()
    assert table.output == asked.output
    assert {layer.modules for layer in table.layers} == {layer.modules for layer in asked.layers}
    if family.hindrance.startswith(NO_EXPERTS):
        # transformers holds experts in an order of its own.
        assert set(by_default(table)) == set(by_default(asked))
    else:
        assert [layer.modules for layer in table.layers] == [layer.modules for layer in asked.layers]
        assert by_default(table) == by_default(asked)


def test_the_table_is_tested() -> None:
    assert set(architectures.names()) <= {family.architecture for family in FAMILIES}
