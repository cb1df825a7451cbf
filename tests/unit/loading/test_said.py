"""What a quantization_config says, and that no JSON value in it does more than end in one line."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octet.engine.types import Quantization
from octet.engine.vllm.checkpoint import read_checkpoint
from octet.engine.vllm.serving.model_info import quantization
from octet.loading import said
from octet.quantize.errors import QuantizeError
from octet.quantize.source import open_source
from octet.weight_index import CheckpointError

NUMBERS = {
    "num_bits": 8,
    "type": "float",
    "symmetric": True,
    "strategy": "channel",
    "dynamic": False,
    "group_size": None,
    "block_structure": None,
}
COMPRESSED_TENSORS = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "sparsity_config": {},
    "transform_config": {},
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "format": "float-quantized",
            "weights": NUMBERS,
            "input_activations": NUMBERS | {"strategy": "token", "dynamic": True},
        },
    },
}
OCTET = {
    "quant_method": "octet_fp8",
    "weights": "e5m2",
    "activations": "e4m3",
    "ignore": ["lm_head"],
    "vocabulary": False,
}
ODD = (
    None,
    True,
    0,
    -1,
    1.5,
    10**400,
    "",
    "x",
    "re:*",
    [],
    [None],
    [[]],
    ["x"],
    {},
    {"x": None},
    {"x": {}},
    {"x": []},
)


def mutated(value: Any) -> Iterator[Any]:
    """Copies of a JSON value, each with an odd value in one place, or without one of its keys."""
    yield from ODD
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            for changed in mutated(inner):
                yield value | {key: changed}
    if isinstance(value, list):
        for index, inner in enumerate(value):
            for changed in mutated(inner):
                yield [*value[:index], changed, *value[index + 1 :]]


CASES = [*mutated(COMPRESSED_TENSORS), *mutated(OCTET), *mutated({"quant_method": "gptq", "bits": 4})]


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_whatever_a_config_holds_ends_in_one_line(tmp_path: Path) -> None:
    lines = []
    for case in CASES:
        model = {"architectures": ["LlamaForCausalLM"], "quantization_config": copy.deepcopy(case)}
        for config in (model, {"architectures": ["X"], "text_config": {"compression_config": case}}):
            folder = write(tmp_path / "m", config)
            try:
                checkpoint = read_checkpoint(str(folder))
                assert isinstance(checkpoint.quantizes_vocabulary, bool)
                assert (checkpoint.quantization is None) == (case is None), case
            except CheckpointError as error:
                lines.append(str(error))
    assert 100 < len(lines) < 2 * len(CASES)
    for line in lines:
        assert "\n" not in line
        assert "quantization_config" in line or "compression_config" in line


@pytest.mark.parametrize(
    "key", ["architectures", "quantization_config", "text_config", "tie_word_embeddings"]
)
def test_a_source_of_odd_values_is_refused_in_one_line(tmp_path: Path, key: str) -> None:
    """The weight file is none, so that every source ends in an error, or is passed on."""
    lines = []
    for value in ODD:
        folder = write(tmp_path / "m", {"architectures": ["LlamaForCausalLM"], key: value})
        try:
            open_source(str(folder))
        except QuantizeError as error:
            lines.append(str(error))
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize("value", [None, "x", ["x", None], {"a": "b"}])
def test_architectures_are_a_list_of_names(tmp_path: Path, value: Any) -> None:
    folder = write(tmp_path / "m", {"architectures": value})
    if value is None:
        assert read_checkpoint(str(folder)).architectures == ()
    else:
        with pytest.raises(CheckpointError, match="architectures: is not a list of names"):
            read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"config_groups": None}, "quantization_config.config_groups: is no object"),
        ({"config_groups": []}, "quantization_config.config_groups: is no object"),
        ({"config_groups": {"g": []}}, "quantization_config.config_groups.g: is no object"),
        ({"config_groups": {"g": {}}}, "quantization_config.config_groups.g.targets: is not a list of names"),
        ({"ignore": None}, "quantization_config.ignore: is not a list of names"),
        ({"quant_method": None}, "quantization_config.quant_method: is no text"),
        ({"quant_method": ""}, "quantization_config.quant_method: is missing"),
        (
            {"sparsity_config": {"targets": ["Linear"]}},
            "quantization_config.sparsity_config: compressed-tensors",
        ),
        ({"kv_cache_scheme": []}, "quantization_config.kv_cache_scheme: is no object"),
    ],
)
def test_the_line_names_the_value(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}"):
        said.read(COMPRESSED_TENSORS | change)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_bits": "8"}, "num_bits: is no whole number"),
        ({"type": "real"}, "type: 'real' is neither 'int' nor 'float'"),
        ({"strategy": "row"}, "strategy: 'row' is none of tensor, channel"),
        ({"dynamic": 1}, "dynamic: is neither true nor false"),
        ({"block_structure": [0, 128]}, "block_structure: a block has no size"),
        ({"block_structure": "128"}, "block_structure: is not a list of two numbers"),
    ],
)
def test_the_line_names_the_number(change: dict[str, Any], line: str) -> None:
    group = {"targets": ["Linear"], "weights": NUMBERS | change}
    where = "quantization_config.config_groups.g.weights."
    with pytest.raises(ValueError, match=f"^{re.escape(where + line)}"):
        said.read(COMPRESSED_TENSORS | {"config_groups": {"g": group}})


def test_it_is_read_as_vllm_reads_it() -> None:
    group = {
        "targets": ["Linear"],
        "weights": {"type": "FLOAT", "strategy": "BLOCK", "block_structure": "128x64"},
        "input_activations": {},
    }
    attention = {"targets": ["LlamaAttention"], "weights": None}
    read = said.read(
        {
            "quant_method": "Compressed_Tensors",
            "format": "float-quantized",
            "config_groups": {"a": attention, "b": group},
        }
    )
    (found,) = read.groups
    assert read.method == "compressed-tensors"
    assert (found.weights.strategy, found.weights.block) == ("block", (128, 64))
    assert (found.weights.bits, found.weights.symmetric, found.weights.dynamic) == (8, True, False)
    assert found.activations is None
    assert found.format == "float-quantized"


def test_what_modelopt_writes_has_no_method() -> None:
    assert said.read({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}).method == ""
    assert quantization({"producer": {"name": "modelopt"}}) == Quantization("UNKNOWN", "", "")


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": OCTET},
        {"compression_config": OCTET},
        {"quantization_config": None, "text_config": {"quantization_config": OCTET}},
        {"text_config": {"compression_config": OCTET}},
    ],
)
def test_every_place_that_vllm_looks_at_is_found(config: dict[str, Any]) -> None:
    assert said.find(config)[1] is OCTET
