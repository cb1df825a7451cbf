"""Checkpoints on disk: what they are, and what is missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from octet.engine.types import Quantization
from octet.engine.vllm import kernels
from octet.engine.vllm.checkpoint import load_obstacles, read_checkpoint
from octet.engine.vllm.formats import FormatPair
from octet.engine.vllm.serving.model_info import quantization
from octet.weight_index import CheckpointError

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


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "holds no JSON object"),
        ({}, "holds no weight_map"),
        ({"weight_map": {"a": "../other.safetensors"}}, r"elsewhere: \.\./other\.safetensors"),
    ],
)
def test_an_index_that_is_none(folder: Path, index: Any, message: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(str(folder))


@pytest.mark.parametrize("model", ["/no/such/folder", "nobody-here/no-such-model"])
def test_models_that_are_not_here(model: str) -> None:
    with pytest.raises(CheckpointError, match="neither a directory nor"):
        read_checkpoint(model)


def octet_fp8(**settings: Any) -> dict[str, Any]:
    return {"quant_method": "octet_fp8", "weights": "e5m2", "activations": "e4m3"} | settings


def test_octets_own_method() -> None:
    assert quantization(octet_fp8()) == Quantization("FP8_DYNAMIC", "e5m2", "e4m3")


def write_quantization(folder: Path, settings: dict[str, Any]) -> None:
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_checkpoint_of_octets_own_method(folder: Path) -> None:
    write_quantization(folder, octet_fp8())
    checkpoint = read_checkpoint(str(folder))
    assert checkpoint.quant_method == "octet_fp8"
    assert checkpoint.pair == FormatPair("e5m2", "e4m3")


def test_a_malformed_one_names_the_file_and_the_setting(folder: Path) -> None:
    write_quantization(folder, octet_fp8(activations="int8"))
    with pytest.raises(CheckpointError, match=r"config\.json: quantization_config\.activations: 'int8'"):
        read_checkpoint(str(folder))


def test_what_keeps_it_from_being_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "unavailable_reason", lambda device: None)
    write_quantization(folder, octet_fp8(activations="e5m2"))
    checkpoint = read_checkpoint(str(folder))
    assert load_obstacles(checkpoint, "cpu") == []
    (obstacle,) = load_obstacles(checkpoint, "cuda")
    assert "CUDA multiplies no E5M2 weights with E5M2 activations" in obstacle
    monkeypatch.setenv("OCTET_KERNELS", "off")
    (obstacle,) = load_obstacles(checkpoint, "cpu")
    assert "OCTET_KERNELS=off" in obstacle


def test_what_vllm_does_not_know(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["NobodysModel"], "quantization_config": {"quant_method": "nobodys"}})
    )
    assert load_obstacles(read_checkpoint(str(folder)), "cpu") == [
        "vLLM does not know its architecture (NobodysModel)",
        "vLLM does not know its quantization method nobodys",
    ]
