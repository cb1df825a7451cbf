"""The end-to-end benchmark as a program, on a model so small that it says nothing about speed."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

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
    "query_pre_attn_scalar": 64,
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
    variant = dataclasses.replace(end_to_end.VARIANTS["octet-vocabulary"], new_tokens=4, repetitions=2)
    run = end_to_end.measure(variant, checkpoint, eager=True)
    assert run["kernels"][f"fp8_linear=octet/{ops.isa()}"] == 4 * 2 + 1, "the output layer"
    assert run["first_token"]["prompt_tokens"] == 512
    assert run["first_token"]["samples"] == 2
    assert [decode["batch"] for decode in run["decode"]] == [1, 8]
    assert all(decode["tokens_per_s"] > 0 and decode["step"]["samples"] >= 3 for decode in run["decode"])
    assert "1.00x" in printed({"bf16": run})


def printed(runs: dict[str, Any]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(end_to_end.table(runs))
    return console.export_text()


def measured(title: str, speed: float, first: float) -> dict[str, Any]:
    decode = [{"batch": batch, "tokens_per_s": batch * speed} for batch in (1, 8)]
    return {"title": title, "first_token": {"median_s": first}, "decode": decode}


def test_medians_of_turns_are_compared_with_each_reference() -> None:
    turns = [measured("Octet", speed, first) for speed, first in ((30.0, 1.0), (90.0, 9.0), (36.0, 2.0))]
    octet = end_to_end.middle(turns)
    assert octet["turns"] == turns
    runs = {
        "octet": octet,
        "bf16": measured("bf16", 24.0, 4.0),
        end_to_end.LLAMA_CPP: measured("llama", 18.0, 8.0),
    }
    _, row, *_ = [line for line in printed(runs).splitlines() if line.startswith("|") and "--" not in line]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["Octet", "36", "1.50x", "2.00x", "288", "1.50x", "2.00x", "2.00 s", "0.50x", "0.25x"]
    alone = printed({"octet": octet})
    assert "x" not in alone.splitlines()[-1].replace("Octet", "")


@pytest.mark.parametrize(
    ("binding", "cores"), [("0-1", [0, 1]), ("0,2", [0, 2]), ("3", [3]), ("0-1,4-5", [0, 1, 4, 5])]
)
def test_the_cores_that_all_engines_compute_on(binding: str, cores: list[int]) -> None:
    assert end_to_end.cores(binding) == cores


@pytest.mark.parametrize("binding", ["", "auto", "0-1|2-3"])
def test_llama_cpp_needs_to_be_told_them(binding: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        end_to_end.cores(binding)
