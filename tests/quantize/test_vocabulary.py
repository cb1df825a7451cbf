"""`octet quantize --vocabulary`: the output layer as codes, also where it shares the embedding."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from octet.loading.said import read
from octet.quantize.errors import QuantizeError
from octet.quantize.options import Format
from tests.quantize.conftest import GOLDEN, Quantize
from tests.quantize.test_exact import load, same
from tests.quantize.test_resume import contents, stop_after

TIED = GOLDEN / "llama-float16-tied/source"


def names(tensors: dict[str, torch.Tensor]) -> tuple[str, str]:
    """The output layer's weight, and the embedding's."""
    (head,) = [name for name in tensors if name.endswith("lm_head.weight")]
    (embedding,) = [name for name in tensors if name.endswith("embed_tokens.weight")]
    return head, embedding


def config_of(folder: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((folder / "config.json").read_text())
    return config


def test_all_else_is_as_without_it(golden: Path, tmp_path: Path, quantize: Quantize) -> None:
    quantize(golden / "source", tmp_path / "plain")
    made = quantize(golden / "source", tmp_path / "made", vocabulary=True, verify=True)
    plain, tensors = load(tmp_path / "plain"), load(tmp_path / "made")
    head, embedding = names(tensors)
    assert tensors.keys() == plain.keys() | {head, f"{head}_scale"}
    for name in plain.keys() - {head}:
        assert same(tensors[name], plain[name]), name
    assert same(tensors[embedding], load(golden / "source")[embedding])
    assert made.errors is not None
    assert [error.name for error in made.errors if error.name == head] == [head]
    assert made.quantized == len(made.errors)
    if (tmp_path / "made/model.safetensors.index.json").exists():
        index = json.loads((tmp_path / "made/model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == tensors.keys()


@pytest.mark.parametrize("weights", list(Format))
def test_the_codes_are_those_of_any_layer_with_this_weight(
    golden: Path, tmp_path: Path, quantize: Quantize, weights: Format
) -> None:
    """Here of a linear layer that is given the output layer's weight."""
    source = tmp_path / "source"
    shutil.copytree(golden / "source", source)
    quantize(source, tmp_path / "made", vocabulary=True, weights=weights)
    tensors = load(tmp_path / "made")
    head, embedding = names(tensors)
    sources = load(source)
    original = sources.get(head, sources[embedding])
    for file in source.glob("*.safetensors"):
        swapped = load_file(file)
        for name in [name for name in swapped if name.endswith("layers.0.mlp.up_proj.weight")]:
            swapped[name] = original
        save_file(swapped, file, metadata={"format": "pt"})
    quantize(source, tmp_path / "swapped", weights=weights)
    swapped = load(tmp_path / "swapped")
    (layer,) = [
        name for name in swapped if name.endswith("layers.0.mlp.up_proj.weight") and "vision" not in name
    ]
    assert tensors[head].dtype is {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[weights.value]
    assert same(tensors[head], swapped[layer])
    assert same(tensors[f"{head}_scale"], swapped[f"{layer}_scale"])


@pytest.mark.parametrize("activations", list(Format))
def test_the_config_says_so_and_ties_nothing(
    golden: Path, tmp_path: Path, quantize: Quantize, activations: Format
) -> None:
    for vocabulary in (True, False):
        folder = tmp_path / str(vocabulary)
        quantize(golden / "source", folder, vocabulary=vocabulary, activations=activations)
        config = config_of(folder)
        said = config["quantization_config"]
        assert isinstance(said, dict)
        assert read(said).names_output_layer == vocabulary
        assert any(name.endswith("lm_head") for name in said["ignore"]) != vocabulary
        before = config_of(golden / "source")
        text, text_before = config.get("text_config", {}), before.get("text_config", {})
        assert isinstance(text, dict)
        assert isinstance(text_before, dict)
        if vocabulary:
            assert config["tie_word_embeddings"] is False
            assert text.get("tie_word_embeddings", False) is False
            assert bool(text) == bool(text_before)
        else:
            assert config.get("tie_word_embeddings") == before.get("tie_word_embeddings")
            assert text == text_before


def test_without_it_the_output_layer_stays_whatever_is_ignored(tmp_path: Path, quantize: Quantize) -> None:
    source = GOLDEN / "llama-bfloat16-untied/source"
    quantize(source, tmp_path / "ignore", ignore=())
    quantize(source, tmp_path / "default")
    ours, theirs = contents(tmp_path / "ignore"), contents(tmp_path / "default")
    assert ours.pop("README.md") != theirs.pop("README.md")
    assert ours == theirs


@pytest.mark.parametrize("number", [0, 7, 12, 17, 18])
def test_an_interrupted_run_goes_on(
    tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The embedding is read twice, and neither reading is taken for the other."""
    quantize(TIED, tmp_path / "expected", vocabulary=True)
    with monkeypatch.context() as patch:
        stop_after(number, patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            quantize(TIED, tmp_path / "made", workers=1, vocabulary=True)
    assert not (tmp_path / "made").exists()
    quantize(TIED, tmp_path / "made", workers=1, vocabulary=True)
    assert contents(tmp_path / "made") == contents(tmp_path / "expected")


def rename(folder: Path, target: Path, change: dict[str, str]) -> None:
    """A copy of a checkpoint of one file whose tensors have other names."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    save_file(
        {change.get(name, name): tensor for name, tensor in tensors.items()}, target / "model.safetensors"
    )


def test_names_as_transformers_writes_them_put_it_where_vllm_looks(
    tmp_path: Path, quantize: Quantize
) -> None:
    source = GOLDEN / "gemma3-float32-tied/source"
    old, new = "language_model.model.", "model.language_model."
    change = {
        name: name.replace(old, new)
        for name in load_file(source / "model.safetensors")
        if name.startswith(old)
    }
    rename(source, tmp_path / "source", change)
    quantize(tmp_path / "source", tmp_path / "made", vocabulary=True)
    assert names(load(tmp_path / "made"))[0] == "lm_head.weight"
    quantize(source, tmp_path / "published", vocabulary=True)
    assert names(load(tmp_path / "published"))[0] == "language_model.lm_head.weight"


def test_what_vllm_could_not_load_is_not_written(tmp_path: Path, quantize: Quantize) -> None:
    source = tmp_path / "source"
    shutil.copytree(TIED, source)
    config = config_of(source) | {"architectures": ["Gemma2ForCausalLM"]}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantizeError, match="--fp8-vocabulary quantizes it when it is loaded") as raised:
        quantize(source, tmp_path / "made", vocabulary=True)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "made").exists()


def test_without_an_embedding_there_is_no_output_layer(tmp_path: Path, quantize: Quantize) -> None:
    source = GOLDEN / "gemma3-float32-tied/source"
    name = "language_model.model.embed_tokens.weight"
    rename(source, tmp_path / "source", {name: "language_model.model.embed_words.weight"})
    with pytest.raises(QuantizeError, match="holds no output layer, and no embeddings that it could share"):
        quantize(tmp_path / "source", tmp_path / "made", vocabulary=True)
