"""E4M3 checkpoints equal llm-compressor's, byte for byte: the golden ones, and live where it is installed."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.quantize.conftest import Quantize
from tests.quantize.families import FAMILIES
from tests.quantize.tiny import write

ROOT = Path(__file__).parents[2]
ORACLE = ROOT / "build/oracle/bin/python"


def load(directory: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in directory.glob("*.safetensors") for name, t in load_file(path).items()}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype is b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def is_gemma_norm(name: str) -> bool:
    return name.startswith(("language_model.", "multi_modal_projector.")) and "norm" in name


def compare(made: Path, expected: dict[str, torch.Tensor], source: dict[str, torch.Tensor]) -> None:
    """Every tensor equals llm-compressor's, but for Gemma's norms, which it spoils: it adds 1 to them to
    quantize and subtracts it again, each time with a rounding. They are compared with the source.
    """
    tensors = load(made)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        if is_gemma_norm(name):
            assert same(expected[name], (source[name].float() + 1).to(source[name].dtype) - 1), name
            assert same(tensor, source[name]), name
        else:
            assert same(tensor, expected[name]), name


def test_equals_the_golden_files(golden: Path, tmp_path: Path, quantize: Quantize) -> None:
    quantize(golden / "source", tmp_path / "made")
    compare(tmp_path / "made", load(golden), load(golden / "source"))
    config = json.loads((tmp_path / "made/config.json").read_text())
    expected = json.loads((golden / "quantization_config.json").read_text())
    assert config.pop("quantization_config") == expected
    assert config == json.loads((golden / "source/config.json").read_text())


@pytest.mark.skipif(not ORACLE.exists(), reason="`make oracle` installs llm-compressor")
def test_equals_llm_compressor_live(tmp_path: Path, quantize: Quantize) -> None:
    source = ROOT / "tools/demo_checkpoint/master"
    script = ROOT / "tools/quantize_oracle/compress.py"
    subprocess.run([ORACLE, script, source, tmp_path / "expected"], check=True, capture_output=True)
    quantize(source, tmp_path / "made")
    compare(tmp_path / "made", load(tmp_path / "expected"), load(source))
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("made", "expected")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]


# Those whose tiny checkpoints llm-compressor 0.14 takes: neither Mixtral nor Llama 4.
COMPARED = (
    *("Cohere2ForCausalLM", "Exaone4ForCausalLM", "Glm4ForCausalLM", "NemotronForCausalLM"),
    *("Olmo3ForCausalLM", "SeedOssForCausalLM", "Qwen3MoeForCausalLM", "Idefics3ForConditionalGeneration"),
    *("Qwen2VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"),
)


@pytest.mark.skipif(not ORACLE.exists(), reason="`make oracle` installs llm-compressor")
@pytest.mark.parametrize("architecture", COMPARED)
def test_families_equal_llm_compressor_live(tmp_path: Path, quantize: Quantize, architecture: str) -> None:
    family = next(family for family in FAMILIES if family.architecture == architecture)
    write(family, tmp_path / "source")
    script = ROOT / "tools/quantize_oracle/compress.py"
    command = [str(path) for path in (ORACLE, script, tmp_path / "source", tmp_path / "expected")]
    subprocess.run([*command, "--ignore", *family.stays], check=True, capture_output=True)
    quantize(tmp_path / "source", tmp_path / "made")
    tensors, expected = load(tmp_path / "made"), load(tmp_path / "expected")
    assert tensors.keys() == expected.keys()
    assert [name for name, tensor in tensors.items() if not same(tensor, expected[name])] == []
