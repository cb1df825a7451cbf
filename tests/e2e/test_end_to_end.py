"""The end-to-end benchmark as a program, on a model so small that it says nothing about speed."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

from bench import end_to_end, random_checkpoint
from octet import ops

SMALL = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(random_checkpoint, "CONFIG", random_checkpoint.CONFIG | SMALL)
    random_checkpoint.write(tmp_path, layers=2)
    return tmp_path


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for file in set(index["weight_map"].values()):
        with safe_open(folder / file, "pt") as shard:
            found |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    assert set(found) == set(index["weight_map"])
    return found


def test_both_formats_hold_the_same_numbers(checkpoint: Path) -> None:
    fp8, bf16 = tensors(checkpoint / "fp8"), tensors(checkpoint / "bf16")
    scales = {name for name in fp8 if name.endswith("_scale")}
    assert len(scales) == 7 * 2, "of seven linear layers in each of two"
    assert set(bf16) == set(fp8) - scales
    for name, weight in bf16.items():
        assert weight.dtype == torch.bfloat16
        stored = fp8[name]
        if f"{name}_scale" in scales:
            assert stored.dtype == torch.float8_e4m3fn
            stored = stored.to(torch.bfloat16) * fp8[f"{name}_scale"]
        assert torch.equal(stored, weight)


def test_an_engine_is_measured(checkpoint: Path) -> None:
    variant = dataclasses.replace(end_to_end.VARIANTS["octet"], new_tokens=4, repetitions=2)
    run = end_to_end.measure(variant, checkpoint, eager=True)
    assert run["kernels"][f"fp8_linear=octet/{ops.isa()}"] == 4 * 2
    assert run["first_token"]["prompt_tokens"] == 512
    assert run["first_token"]["samples"] == 2
    assert [decode["batch"] for decode in run["decode"]] == [1, 8]
    assert all(decode["tokens_per_s"] > 0 and decode["step"]["samples"] >= 3 for decode in run["decode"])
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(end_to_end.table({"bf16": run}))
    assert "1.00x" in console.export_text()
