"""Checkpoints with something broken: a start ends in one line that names the file, and starts no engine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octet import demo
from octet.engine.vllm.launch import forkserver
from octet.engine.vllm.launch.startup import Launch
from octet.errors import StartupError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

# Not one of them may be broken, if it is there.
OBJECTS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
    "model.safetensors.index.json",
)

Break = Callable[[Path], object]


def put(text: str | bytes) -> Break:
    """Replaces the file."""
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def change(**changes: Any) -> Break:
    """Sets entries of the file's object; None removes one, and a__b is within a."""

    def act(path: Path) -> None:
        content = json.loads(path.read_text())
        for name, value in changes.items():
            *outer, inner = name.split("__")
            place = content
            for step in outer:
                place = place[step]
            if value is None:
                del place[inner]
            else:
                place[inner] = value
        path.write_text(json.dumps(content))

    return act


def cut(share: float) -> Break:
    """Leaves the beginning."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def gone(path: Path) -> None:
    """Removes the file."""
    path.unlink()


JSON_FAULTS = [
    (put(""), "is empty"),
    (put(" \n"), "is empty"),
    (put("garbage"), "is not JSON: Expecting value"),
    (put(b"\xff\xfe\x00\x01"), "is not JSON"),
    (put('{"a": '), "is not JSON"),
    (put("[" * 100_000), "is not JSON"),
    (put("[]"), "holds no JSON object"),
    (put('"text"'), "holds no JSON object"),
    (put(POINTER), "is a pointer of Git LFS"),
]

FAULTS: list[tuple[str, Break, str]] = [
    *((name, damage, fault) for name in OBJECTS for damage, fault in JSON_FAULTS[:1]),
    *(("config.json", damage, fault) for damage, fault in JSON_FAULTS[1:]),
    *(("tokenizer.json", damage, fault) for damage, fault in JSON_FAULTS[2::3]),
    ("model.safetensors", gone, "holds no weights"),
    ("model.safetensors", cut(0.9), "is cut off"),
    ("model.safetensors", cut(0.001), "is cut off within its header"),
    ("model.safetensors", put(b"\xff" * 1000), "does not begin with the length of a header"),
    ("model.safetensors", put((100).to_bytes(8, "little") + b"x" * 1000), "its header is not JSON"),
    ("model.safetensors", put(POINTER), "is a pointer of Git LFS"),
    ("model.safetensors.index.json", put("{}"), "holds no weight_map"),
    (
        "model.safetensors.index.json",
        put('{"weight_map": {"a": "other.safetensors"}}'),
        "lacks 1 of 1",
    ),
    ("model.safetensors.index.json", put('{"weight_map": {"a": "../a.safetensors"}}'), "elsewhere"),
    ("tokenizer.json", gone, "holds no tokenizer.json"),
    ("tokenizer.json", put("{}"), "is no tokenizer"),
    ("tokenizer.json", change(model__type="NoSuchModel"), "is no tokenizer"),
    ("tokenizer.json", change(added_tokens=None), "it has no list of added_tokens"),
    ("chat_template.jinja", put("{% if messages %}\n{{ messages"), "is no chat template: line 2"),
    ("chat_template.jinja", put("{% nonsense %}"), "is no chat template: line 1"),
    ("chat_template.jinja", put(b"\xff\xfe"), "cannot be read"),
    ("modules.json", put(""), "is empty"),
    ("sentence_bert_config.json", put("[]"), "holds no JSON object"),
    ("config.json", put("{}"), "model_type"),
    ("config.json", change(model_type="no-such-model"), "no-such-model"),
    ("config.json", change(architectures=["NoSuchModel"]), "NoSuchModel"),
    ("config.json", change(text_config=[]), ""),
    ("config.json", change(quantization_config=[]), "quantization_config: is no object"),
    ("config.json", change(quantization_config__config_groups=[]), "config_groups: is no object"),
    ("config.json", change(text_config__hidden_size="wide"), "hidden_size"),
    ("config.json", change(text_config__num_attention_heads=0), ""),
    ("config.json", change(quantization_config="fp8"), ""),
    ("config.json", change(quantization_config={"quant_method": "no-such-method"}), "no-such-method"),
    ("config.json", change(dtype="float7"), "float7"),
    ("generation_config.json", change(temperature="hot"), "temperature"),
    ("generation_config.json", change(eos_token_id="end"), "eos_token_id"),
    ("preprocessor_config.json", gone, "preprocessor_config.json"),
    ("preprocessor_config.json", change(image_processor_type="NoSuchProcessor"), "image processor"),
    ("preprocessor_config.json", change(size="large"), ""),
    ("processor_config.json", change(image_seq_length="many"), ""),
]


@pytest.fixture
def starts_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever gets as far as to start a process fails with words of its own."""
    from vllm.v1.engine.core_client import EngineCoreClient

    def start(*_: object, **__: object) -> None:
        raise RuntimeError("an engine was started")

    monkeypatch.setattr(EngineCoreClient, "make_async_mp_client", start)
    monkeypatch.setattr(forkserver.server, "start", lambda ranks: None)


def refusal(folder: Path, *flags: str) -> str:
    """How a start with a checkpoint ends."""
    from octet.engine.vllm.launch.args import parse_engine_args

    with pytest.raises(StartupError) as raised:
        Launch(parse_engine_args([str(folder), "--enforce-eager", *flags])).serve()
    return str(raised.value)


@pytest.mark.usefixtures("starts_no_engine")
@pytest.mark.parametrize(("name", "damage", "fault"), FAULTS)
def test_a_broken_file_is_named(name: str, damage: Break, fault: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo.PATH, folder)
    damage(folder / name)
    said = refusal(folder)
    print(said)
    assert said.startswith(f"cannot serve {folder}: ")
    assert "\n" not in said
    assert len(said) < 1500
    assert "an engine was started" not in said
    for lacking in ("holds no weights", "lacks 1 of 1 weight files"):
        said = said.replace(f"{folder} {lacking}", name + lacking)
    assert name in said
    assert fault in said


@pytest.mark.usefixtures("starts_no_engine")
def test_a_template_that_is_given_has_to_be_one(tmp_path: Path) -> None:
    template = tmp_path / "other.jinja"
    template.write_text("a\n{% if %}")
    said = refusal(demo.PATH, "--chat-template", str(template))
    assert said.startswith(f"cannot serve {demo.PATH}: --chat-template is no chat template: line 2: ")


@pytest.mark.usefixtures("starts_no_engine")
def test_whole_files_start_an_engine(tmp_path: Path) -> None:
    """And what is not used is not looked at: weights that are not read, a template that is replaced."""
    assert refusal(demo.PATH) == f"cannot serve {demo.PATH}: an engine was started"
    folder = tmp_path / "model"
    shutil.copytree(demo.PATH, folder)
    (folder / "chat_template.jinja").write_text("{% nonsense %}")
    (folder / "model.safetensors").unlink()
    template = tmp_path / "other.jinja"
    template.write_text("{{ messages[0].content }}")
    said = refusal(folder, "--load-format", "dummy", "--chat-template", str(template))
    assert said == f"cannot serve {folder}: an engine was started"
