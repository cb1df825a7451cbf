"""What is found out about a checkpoint from its config and the headers of its files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from octet import demo
from octet.cli.inspect import inspect as inspect_command
from octet.engine.vllm import kernels
from octet.inspection import inspect, services
from octet.weight_index import CheckpointError

LAYERS = "language_model.model.layers"


def octet_fp8(weights: str = "e5m2", activations: str = "e4m3") -> dict[str, Any]:
    return {"quant_method": "octet_fp8", "weights": weights, "activations": activations}


def write(folder: Path, *shards: dict[str, torch.Tensor], quantization: dict[str, Any] | None) -> Path:
    folder.mkdir(exist_ok=True)
    names = [f"model-{number}.safetensors" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name)
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config: dict[str, Any] = {"architectures": ["Gemma3ForConditionalGeneration"]}
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def linear(layer: int, dtype: torch.dtype = torch.float8_e5m2) -> dict[str, torch.Tensor]:
    name = f"{LAYERS}.{layer}.mlp.down_proj.weight"
    return {
        name: torch.zeros(6, 8).to(dtype),
        f"{name}_scale": torch.ones(6, 1, dtype=torch.bfloat16),
    }


HEAD = "language_model.lm_head.weight"
OUTPUT = {HEAD: torch.zeros(10, 8).to(torch.float8_e5m2), f"{HEAD}_scale": torch.ones(10, 1)}
EMBEDDING = {"language_model.model.embed_tokens.weight": torch.zeros(10, 8, dtype=torch.bfloat16)}


def test_modules_are_grouped_over_layers_and_shards(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", linear(0) | EMBEDDING, linear(1), quantization=octet_fp8())
    inspection = inspect(str(folder))
    embedding, down = inspection.kinds
    assert (embedding.modules, embedding.count, embedding.dtype) == (
        "language_model.model.embed_tokens",
        1,
        "BF16",
    )
    assert not embedding.quantized
    assert (embedding.parameters, embedding.bytes) == (80, 160)
    assert (down.modules, down.count, down.dtype) == (f"{LAYERS}.*.mlp.down_proj", 2, "F8_E5M2")
    assert down.scales == "BF16 per channel"
    assert (down.parameters, down.bytes) == (96, 96 + 2 * 6 * 2)
    assert (inspection.parameters, inspection.quantized_parameters) == (176, 96)
    assert inspection.problems == ()


def test_layers_stored_otherwise_are_listed_apart(tmp_path: Path) -> None:
    plain = {f"{LAYERS}.1.mlp.down_proj.weight": torch.zeros(6, 8, dtype=torch.bfloat16)}
    folder = write(tmp_path / "m", linear(0) | plain, quantization=octet_fp8())
    assert [(kind.dtype, kind.count) for kind in inspect(str(folder)).kinds] == [("BF16", 1), ("F8_E5M2", 1)]


@pytest.mark.parametrize(
    ("tensors", "quantization", "problem"),
    [
        (linear(0, torch.float8_e4m3fn), octet_fp8(), "F8_E4M3, and config.json says e5m2"),
        (EMBEDDING, octet_fp8(), "config.json says e5m2 weights, and no tensor is F8_E5M2"),
        (linear(0), None, "F8_E5M2, and config.json has no quantization_config"),
        (
            {name: tensor for name, tensor in linear(0).items() if name.endswith("weight")},
            octet_fp8(),
            "no weight_scale of one value per output channel beside it",
        ),
        (
            linear(0) | {f"{LAYERS}.0.mlp.down_proj.weight_scale": torch.ones(1)},
            octet_fp8(),
            "no weight_scale of one value per output channel beside it",
        ),
        (
            linear(0) | OUTPUT,
            octet_fp8(),
            f"{HEAD}: F8_E5M2, and config.json does not say that the output layer is quantized",
        ),
        (
            linear(0) | EMBEDDING,
            octet_fp8() | {"vocabulary": True},
            "config.json says that the output layer is quantized, and it is not stored so",
        ),
    ],
)
def test_contradictions(
    tmp_path: Path, tensors: dict[str, torch.Tensor], quantization: dict[str, Any] | None, problem: str
) -> None:
    folder = write(tmp_path / "m", tensors, quantization=quantization)
    (found,) = inspect(str(folder)).problems
    assert problem in found
    assert not any(service.served for service in services(inspect(str(folder))))


def test_what_serves_each_pair(tmp_path: Path) -> None:
    mixed = write(tmp_path / "mixed", linear(0), quantization=octet_fp8())
    cpu, cuda = services(inspect(str(mixed)))
    assert (cpu.device, cpu.served, cpu.here) == ("cpu", True, True)
    assert cpu.detail == f"per_token_quant_fp8={kernels.variant('cpu')} fp8_linear={kernels.variant('cpu')}"
    assert (cuda.device, cuda.served, cuda.here) == ("cuda", True, False)
    assert cuda.detail == "per_token_quant_fp8=octet fp8_linear=torch._scaled_mm"
    narrow = write(tmp_path / "narrow", linear(0), quantization=octet_fp8(activations="e5m2"))
    cpu, cuda = services(inspect(str(narrow)))
    assert (cpu.served, cuda.served) == (True, False)
    assert "CUDA multiplies no E5M2 weights with E5M2 activations" in cuda.detail


def test_the_switch_counts_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTET_KERNELS", "off")
    mixed = write(tmp_path / "mixed", linear(0), quantization=octet_fp8())
    cpu, cuda = services(inspect(str(mixed)))
    assert (cpu.served, cuda.served) == (False, True)
    assert "OCTET_KERNELS=off" in cpu.detail
    cpu, _ = services(inspect(str(demo.PATH)))
    assert (cpu.served, cpu.detail) == (True, "vLLM's own kernels")


def test_an_unknown_architecture_is_served_nowhere(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", linear(0), quantization=octet_fp8())
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["NobodysModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    for service in services(inspect(str(folder))):
        assert not service.served
        assert service.detail == "vLLM does not know its architecture (NobodysModel)"


def test_damaged_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", linear(0), quantization=octet_fp8())
    shard = folder / "model-0.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-0\.safetensors cannot be read"):
        inspect(str(folder))
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled, ignore=shutil.ignore_patterns("model*"))
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        inspect(str(pickled))


def test_the_command_prints_a_table() -> None:
    result = CliRunner().invoke(inspect_command, [str(demo.PATH)])
    assert result.exit_code == 0
    assert "FP8_DYNAMIC (compressed-tensors), weights e4m3, activations e4m3" in result.output.replace(
        "\n", ""
    )
    assert "language_model.model.layers.*.mlp.down_proj" in result.output
    assert f"cpu (this machine): served: per_token_quant_fp8={kernels.variant('cpu')}" in result.output


def test_an_output_layer_that_is_quantized_is_named(tmp_path: Path) -> None:
    quantization = octet_fp8() | {"vocabulary": True}
    folder = write(tmp_path / "m", linear(0) | OUTPUT | EMBEDDING, quantization=quantization)
    result = CliRunner().invoke(inspect_command, [str(folder)])
    assert result.exit_code == 0
    assert "activations e4m3, the output layer too" in result.output.replace("\n", "")
    report = json.loads(CliRunner().invoke(inspect_command, [str(folder), "--json"]).output)
    assert report["vocabulary_format"] == "e5m2"


def test_the_command_prints_json() -> None:
    result = CliRunner().invoke(inspect_command, [str(demo.PATH), "--json"])
    report = json.loads(result.output)
    assert result.exit_code == 0
    assert report["weight_format"] == report["activation_format"] == "e4m3"
    assert report["vocabulary_format"] is None
    assert 0 < report["quantized_parameters"] < report["parameters"]
    assert sum(kind["parameters"] for kind in report["modules"]) == report["parameters"]
    assert [device["served"] for device in report["devices"]] == [True, True]


def test_what_is_not_there_is_one_line() -> None:
    result = CliRunner().invoke(inspect_command, ["/no/such/folder"])
    assert result.exit_code == 1
    assert result.stderr == "octet: error: /no/such/folder is neither a directory nor a hub id\n"
