"""Writes LoRA adapters for small checkpoints as PEFT trains them, and what PEFT makes of these merged.

    build/oracle/bin/python -m tools.quantize_oracle.adapters tests/quantize/golden tests/quantize/adapters

Each folder holds the adapter, and `merged.safetensors`: the tensors that merging has changed, in float32. It
runs in the environment that `make oracle` sets up.
"""

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText


@dataclass(frozen=True, slots=True)
class Case:
    """An adapter.

    Attributes:
        name: its folder.
        base: the golden checkpoint that it is for.
        config: of LoRA.
    """

    name: str
    base: str
    config: dict[str, Any]


_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

CASES = (
    Case(
        "patterns",
        "llama-float32-untied",
        {
            "r": 3,
            "lora_alpha": 5,
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 1},
            "alpha_pattern": {"v_proj": 7, r".*\.0\.mlp\.down_proj": 2},
        },
    ),
    Case(
        "rslora-with-saved-modules",
        "llama-float32-untied",
        {
            "r": 4,
            "lora_alpha": 3,
            "use_rslora": True,
            "target_modules": _LINEAR,
            "modules_to_save": ["lm_head", "input_layernorm"],
        },
    ),
    # The float32 base has rows whose length is no float32.
    Case(
        "dora", "llama-float16-tied", {"r": 2, "lora_alpha": 4, "use_dora": True, "target_modules": _LINEAR}
    ),
    Case(
        "embeddings",
        "llama-float32-untied",
        {"r": 2, "lora_alpha": 3, "target_modules": ["embed_tokens", "lm_head", "up_proj"]},
    ),
    Case(
        "other-names-and-biases",
        "gemma3-float32-tied",
        {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "fc1", "down_proj"], "bias": "lora_only"},
    ),
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("golden", type=Path)
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.directory, ignore_errors=True)
    for number, case in enumerate(CASES):
        torch.manual_seed(number)
        write_case(case, arguments.golden / case.base / "source", arguments.directory / case.name)


def write_case(case: Case, base: Path, directory: Path) -> None:
    """Writes the adapter and what it changes."""
    family = AutoModelForImageTextToText if case.base.startswith("gemma3") else AutoModelForCausalLM
    model = get_peft_model(family.from_pretrained(base, dtype=torch.float32), LoraConfig(**case.config))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary)
        model.save_pretrained(saved)
        directory.mkdir(parents=True)
        shutil.copyfile(saved / "adapter_model.safetensors", directory / "adapter_model.safetensors")
        config = json.loads((saved / "adapter_config.json").read_text()) | {
            "base_model_name_or_path": case.base
        }
        (directory / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        model.merge_and_unload().save_pretrained(saved / "merged")
        merged = load_file(saved / "merged" / "model.safetensors")
    before = {name: weight for path in base.glob("*.safetensors") for name, weight in load_file(path).items()}
    changed = {
        name: weight for name, weight in merged.items() if not torch.equal(weight, before[name].float())
    }
    save_file(changed, directory / "merged.safetensors")
    (directory / "base").write_text(case.base + "\n")


if __name__ == "__main__":
    main()
