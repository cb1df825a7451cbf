"""An adapter's files are looked at before vLLM reads them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from octet import demo
from octet.engine.vllm.serving.adapter_files import BaseModel
from octet.errors import InvalidRequestError
from tests.e2e.checkpoints import RANK, write_adapter

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return BaseModel(str(demo.PATH))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_adapter(Path(demo.PATH), tmp_path / "adapter", strength=0.5)
    return tmp_path / "adapter"


def configured(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def changed(act: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file({name: t.contiguous() for name, t in act(load_file(file)).items()}, file)

    return change


def renamed(old: str, new: str) -> Callable[[Path], None]:
    return changed(lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()})


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


# What is wrong, how it comes about, and what the sentence says.
BAD: list[tuple[str, Callable[[Path], None], str]] = [
    ("no config", lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
    ("a config that is no JSON", written("adapter_config.json", b"{"), "no adapter_config.json"),
    ("a config of another kind", written("adapter_config.json", b"[]"), "no adapter_config.json"),
    ("a deep config", written("adapter_config.json", b"[" * 100_000), "no adapter_config.json"),
    ("a config that is no text", written("adapter_config.json", b"\xff\xfe\x00"), "no adapter_config.json"),
    ("a large config", written("adapter_config.json", b" " * 2**21), "more than 1048576 bytes"),
    ("another method", configured(peft_type="IA3"), "its peft_type is 'IA3'"),
    ("a rank that is too large", configured(r=1000), "has the rank 1000, and the server takes 1 to 16"),
    ("no rank", configured(r=0), "has the rank 0"),
    ("a rank that is no number", configured(r="4"), "has the rank 4"),
    ("no weights", lambda folder: (folder / "adapter_model.safetensors").unlink(), "is damaged"),
    ("empty weights", written("adapter_model.safetensors", b""), "is damaged"),
    ("garbage", written("adapter_model.safetensors", b"garbage" * 1000), "is damaged"),
    ("weights that end early", cut, "is damaged"),
    ("nothing of LoRA's", renamed("lora_", "ia3_"), "changes nothing"),
    ("one matrix only", changed(lambda t: {k: v for k, v in t.items() if "lora_A" in k}), "no two matrices"),
    ("no matrices", changed(lambda t: {k: v.flatten() for k, v in t.items()}), "no two matrices"),
    ("ranks that differ", changed(lambda t: {k: v[:2] if "lora_A" in k else v for k, v in t.items()}),
     "has the rank 2"),
    ("a rank beyond what is said",
     changed(lambda t: {k: torch.cat([v] * 8, int("lora_B" in k)) for k, v in t.items()}), "has the rank 32"),
    ("a narrower model", changed(lambda t: {k: v[:, :8] if "lora_A" in k else v for k, v in t.items()}),
     "is for another model"),
    ("a model with other heads", changed(lambda t: {k: v[:8] if "lora_B" in k else v for k, v in t.items()}),
     "is for another model"),
    ("a deeper model", renamed("layers.0.", "layers.99."), "this one has no"),
    ("other layers", renamed("self_attn", "attention"), "this one has no"),
]  # fmt: skip


def test_what_is_an_adapter(base: BaseModel, folder: Path) -> None:
    base.check(folder, RANK)
    renamed("language_model.model", "model.language_model")(folder)
    base.check(folder, 16)


@pytest.mark.parametrize(("change", "problem"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_none(base: BaseModel, folder: Path, change: Callable[[Path], None], problem: str) -> None:
    change(folder)
    with pytest.raises(InvalidRequestError) as raised:
        base.check(folder, 16)
    assert raised.value.field == "path"
    assert problem in raised.value.message
    assert "\n" not in raised.value.message
    assert str(folder) not in raised.value.message


def test_a_model_whose_files_are_not_here(folder: Path) -> None:
    changed(lambda t: {k: v[:, :8] if "lora_A" in k else v for k, v in t.items()})(folder)
    BaseModel("nobody/nothing").check(folder, 16)
