"""Checkpoints on disk: what they are, and what is missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from octet.engine.types import Quantization
from octet.engine.vllm.checkpoint import CheckpointError, read_checkpoint
from octet.engine.vllm.model_info import quantization

WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": False}
ACTIVATIONS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}


def config(weights: dict[str, Any], activations: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
    }


@pytest.mark.parametrize(
    ("weights", "activations", "expected"),
    [
        (WEIGHTS, ACTIVATIONS, Quantization("FP8_DYNAMIC", "e4m3", "e4m3")),
        (WEIGHTS, ACTIVATIONS | {"dynamic": False}, Quantization("float-quantized", "e4m3", "e4m3")),
        (WEIGHTS | {"strategy": "tensor"}, ACTIVATIONS, Quantization("float-quantized", "e4m3", "e4m3")),
        (
            {"num_bits": 4, "type": "int", "strategy": "group"},
            None,
            Quantization("float-quantized", "int4", ""),
        ),
    ],
)
def test_quantization(
    weights: dict[str, Any], activations: dict[str, Any] | None, expected: Quantization
) -> None:
    assert quantization(config(weights, activations)) == expected


def test_other_methods_and_none() -> None:
    assert quantization(None) is None
    assert quantization({"quant_method": "awq"}) == Quantization("AWQ", "", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"architectures": ["Gemma3ForConditionalGeneration"]}
            | {"quantization_config": config(WEIGHTS, ACTIVATIONS)}
        )
    )
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    return tmp_path


def test_a_whole_checkpoint(folder: Path) -> None:
    checkpoint = read_checkpoint(str(folder))
    assert checkpoint.architectures == ("Gemma3ForConditionalGeneration",)
    assert checkpoint.quantization == Quantization("FP8_DYNAMIC", "e4m3", "e4m3")
    assert checkpoint.quant_method == "compressed-tensors"
    assert checkpoint.weight_bytes == 1000


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "cannot be read"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "no weights"),
    ],
)
def test_missing_files(folder: Path, file: str, message: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(str(folder))


def test_missing_shards(folder: Path) -> None:
    names = {"a": "model.safetensors", "b": "model-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 weight files, such as model-00002"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize("model", ["/no/such/folder", "nobody-here/no-such-model"])
def test_models_that_are_not_here(model: str) -> None:
    with pytest.raises(CheckpointError, match="neither a directory nor"):
        read_checkpoint(model)
