"""`octet quantize` as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors import safe_open

from octet.cli.quantize import quantize
from tests.quantize.conftest import GOLDEN

SOURCE = GOLDEN / "gemma3-bfloat16-tied/source"
NAME, COMMIT = "octet-tests/tiny-gemma", "0123456789abcdef0123456789abcdef01234567"


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(quantize, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def dtypes(directory: Path) -> dict[str, str]:
    found = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            found |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize(("weights", "activations"), [("e4m3", "e5m2"), ("e5m2", "e4m3"), ("e5m2", "e5m2")])
def test_other_formats_carry_octet_s_method(tmp_path: Path, weights: str, activations: str) -> None:
    made = tmp_path / "made"
    code, _, _ = run(SOURCE, made, "--weights", weights, "--activations", activations)
    assert code == 0
    config = json.loads((made / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["weights"], config["activations"]) == (
        "octet_fp8",
        weights,
        activations,
    )
    assert config["ignore"][-1] == "lm_head"
    found = dtypes(made)
    assert found["language_model.model.layers.0.mlp.up_proj.weight"] == f"F8_{weights.upper()}"
    assert found["language_model.model.layers.0.mlp.up_proj.weight_scale"] == "BF16"
    assert found["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"] == "BF16"


def test_targets_ignore_workers_and_verify(tmp_path: Path) -> None:
    made = tmp_path / "made"
    flags = [
        "--targets",
        "re:.*_proj",
        "--targets",
        "re:.*fc1",
        "--ignore",
        "re:.*layers.1.*",
        "--ignore",
        r"re:.*\.(q|k|v)_proj",
        "--no-default-ignore",
    ]
    code, output, _ = run(SOURCE, made, *flags, "--workers", 3, "--verify")
    assert code == 0
    quantized = {name.removesuffix(".weight") for name, dtype in dtypes(made).items() if dtype == "F8_E4M3"}
    tower = "vision_tower.vision_model.encoder.layers.0."
    text = "language_model.model.layers.0."
    assert quantized == {
        *(f"{tower}{name}" for name in ("self_attn.out_proj", "mlp.fc1")),
        f"{text}self_attn.o_proj",
        *(f"{text}mlp.{name}_proj" for name in ("gate", "up", "down")),
    }
    assert f"{made}: {len(quantized)} weights quantized" in output
    assert "verified: every copied tensor is equal; the worst weight is " in output
    card = (made / "README.md").read_text()
    assert (
        "--targets 're:.*_proj' --targets 're:.*fc1' --no-default-ignore --ignore 're:.*layers.1.*'" in card
    )
    assert "| `language_model.model.layers.0.mlp.up_proj.weight` |" in card


ALONG = {
    "tokenizer.json": "{}",
    "tokenizer.model": "binary",
    "vocab.bpe": "a b",
    "merges.txt": "a b",
    "generation_config.json": '{"do_sample": false}',
    "preprocessor_config.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/rag.jinja": "{{ documents }}",
    "LICENSE": "text",
    "modeling_octet.py": "import octet",
    "sub/helper.py": "import octet",
    "sub/deeper/data.csv": "1",
    "config_sentence_transformers.json": "{}",
    "modules.json": '[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]',
    "1_Pooling/config.json": "{}",
    "1_Pooling/README.md": "A card of its own.",
    "2_Dense/model.safetensors": "weights that go along",
    "assets/figure.png": "picture",
}
LEFT = (
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "model.gguf", "consolidated.safetensors"),
    *("tf_model.h5", "flax_model.msgpack", "rust_model.ot.part", "onnx/model.onnx", "onnx/model.onnx_data"),
    *("original/consolidated.00.pth", "training_args.bin", "optimizer.pt", "other/model.safetensors"),
    *(".gitattributes", ".git/config", ".cache/huggingface/x.json", "__pycache__/helper.pyc", "notes.txt~"),
    *("x.safetensors.index.json", "x.json.lock", "x.incomplete", "runs/events.json"),
)


def test_the_rest_of_the_checkpoint_goes_along(tmp_path: Path) -> None:
    source, made = tmp_path / "source", tmp_path / "made"
    shutil.copytree(SOURCE, source)
    for name in (*ALONG, *LEFT):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(ALONG.get(name, "{}"))
    (source / "README.md").write_text("---\nlicense: gemma\nlanguage: en\ntags: [x]\n---\nA model.\n")
    (source / "linked.json").symlink_to("tokenizer.json")
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    (source / "outside.json").symlink_to(tmp_path / "secret.json")
    (source / "folder").symlink_to(tmp_path / "elsewhere")
    (source / "loop.json").symlink_to("loop.json")
    code, _, error = run(source, made)
    assert code == 0
    assert error == "".join(
        f"octet: warning: {source / name} leads out of the folder, and was not copied\n"
        for name in ("folder", "loop.json", "outside.json")
    )
    there = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    shards = {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    written = {*shards, "model.safetensors.index.json", "config.json", "README.md"}
    assert there == {*ALONG, *written, "linked.json"}
    assert all((made / name).read_text() == text for name, text in ALONG.items())
    assert not any(path.is_symlink() for path in made.rglob("*"))
    card = (made / "README.md").read_text()
    assert "license: gemma" in card
    assert "language: en" in card
    assert "Not measured" in card
    assert "A model." not in card


@pytest.mark.parametrize(
    "metadata", [{"total_parameters": 7, "made_by": "x", "total_size": 1}, None, [], "x"]
)
def test_the_index_keeps_what_it_says_besides(tmp_path: Path, metadata: object) -> None:
    source, made = tmp_path / "source", tmp_path / "made"
    shutil.copytree(SOURCE, source)
    path = source / "model.safetensors.index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metadata": metadata}))
    assert run(source, made)[0] == 0
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == dtypes(made).keys()
    size = sum(file.stat().st_size for file in made.glob("*.safetensors"))
    assert 0 < index["metadata"].pop("total_size") < size
    assert index["metadata"] == (
        {"total_parameters": 7, "made_by": "x"} if isinstance(metadata, dict) else {}
    )


def test_ignore_adds_to_what_is_ignored_anyway(tmp_path: Path) -> None:
    assert run(SOURCE, tmp_path / "made", "--ignore", "re:.*mlp.down_proj")[0] == 0
    found = dtypes(tmp_path / "made")
    kept = {name for name, dtype in found.items() if name.endswith("_proj.weight") and dtype == "BF16"}
    assert kept == {name for name in found if name.endswith("down_proj.weight") or "vision_tower" in name} & {
        name for name in found if name.endswith("_proj.weight")
    }
    card = (tmp_path / "made/README.md").read_text()
    assert "--activations e4m3 --ignore 're:.*mlp.down_proj'\n" in card
    assert "no-default" not in card


LLAMA = GOLDEN / "llama-bfloat16-untied/source"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--ignore", "re:*.foo"],
            "--ignore 're:*.foo': is no regular expression: nothing to repeat at position 0",
        ),
        (["--targets", "re:("], "--targets 're:(': is no regular expression: missing ), "),
        (["--ignore", "re:foo"], "--ignore 're:foo': "),
        (["--ignore", "down_proj"], "--ignore 'down_proj': "),
        (["--ignore", "model.layers.0"], "--ignore 'model.layers.0': "),
        (
            ["--ignore", "model.layers.0.mlp.down_proj.weight"],
            "--ignore 'model.layers.0.mlp.down_proj.weight': ",
        ),
        (["--ignore", "re:.*.weight"], "--ignore 're:.*.weight': "),
        (["--targets", "Conv2d", "--targets", "Linear"], "--targets 'Conv2d': "),
        (
            ["--targets", "lm_head", "--targets", "Linear"],
            "--targets 'lm_head': the output layer is quantized by --vocabulary",
        ),
        (
            ["--targets", "re:.*lm_head", "--targets", "Linear"],
            "--targets 're:.*lm_head': the output layer is quantized by",
        ),
        (
            ["--ignore", "model.layers.1.self_attn.q_proj"],
            f"{LLAMA}: vLLM could not load the result: model.layers.1",
        ),
        (
            ["--ignore", r"re:.*\.k_proj"],
            f"{LLAMA}: vLLM could not load the result: model.layers.0.self_attn: ",
        ),
        (
            ["--ignore", "re:.*up_proj"],
            f"{LLAMA}: vLLM could not load the result: model.layers.0.mlp: gate_proj",
        ),
        (["--targets", "re:.*gate_proj"], f"{LLAMA}: vLLM could not load the result: model.layers.0.mlp"),
    ],
)
def test_patterns_that_mean_nothing_good_are_refused(tmp_path: Path, flags: list[str], line: str) -> None:
    code, output, error = run(LLAMA, tmp_path / "made", *flags)
    assert (code, output) == (1, "")
    assert error.startswith(f"octet: error: {line}")
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--ignore", "lm_head"],
        ["--ignore", "re:.*vision_tower.*"],
        ["--ignore", "model.embed_tokens", "--ignore", "re:.*norm"],
        ["--ignore", r"re:.*\.(q|k|v)_proj", "--ignore", "re:.*(gate|up)_proj"],
        ["--no-default-ignore"],
        ["--targets", "re:.*down_proj", "--targets", "Linear"],
    ],
)
def test_patterns_that_name_something_are_not(tmp_path: Path, flags: list[str]) -> None:
    code, _, error = run(LLAMA, tmp_path / "made", *flags)
    assert (code, error) == (0, "")
    assert dtypes(tmp_path / "made")["lm_head.weight"] == "BF16"


@pytest.mark.parametrize("card", ["no metadata", "---\n: [\n---\n", "---\n- a list\n---\n", ""])
def test_a_card_without_usable_metadata_does_no_harm(tmp_path: Path, card: str) -> None:
    shutil.copytree(SOURCE, tmp_path / "source")
    (tmp_path / "source/README.md").write_text(card)
    assert run(tmp_path / "source", tmp_path / "made")[0] == 0
    assert (tmp_path / "made/README.md").read_text().startswith("---\nlibrary_name: vllm\n")


def test_an_error_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    code, output, error = run(tmp_path / "source", tmp_path / "made")
    assert (code, output) == (1, "")
    assert (
        error
        == f"octet: error: {tmp_path / 'source/config.json'} cannot be read: No such file or directory\n"
    )


@pytest.mark.parametrize(
    "flags", [["--weights", "int8"], ["--activations", "fp4"], ["--workers", "0"], ["--group-size", "128"]]
)
def test_flags_that_mean_nothing_are_refused(tmp_path: Path, flags: list[str]) -> None:
    assert run(SOURCE, tmp_path / "made", *flags)[0] == 2
    assert os.listdir(tmp_path) == []


def test_a_revision_of_a_directory_is_refused(tmp_path: Path) -> None:
    code, _, error = run(SOURCE, tmp_path / "made", "--revision", "main")
    assert code == 1
    assert error.endswith("is a directory, of which there is no revision main\n")


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    code, output, error = run(SOURCE, tmp_path / "made", "--dry-run")
    assert (code, error) == (0, "")
    assert os.listdir(tmp_path) == []
    lines = output.splitlines()
    assert "  language_model.model.layers.*.mlp.up_proj: 2 of [24, 16], 1.54 kB become 864 bytes" in lines
    assert "  lm_head: 1; it shares the embedding" in lines
    tower = "vision_tower.vision_model.encoder.layers.*.mlp.fc1"
    assert f"  {tower}: 1; ignored by re:.*vision_tower.*" in lines
    assert lines[-1].endswith(" in 2 file(s)")


def test_two_answers_to_one_question_are_refused(tmp_path: Path) -> None:
    code, _, error = run(SOURCE, tmp_path / "made", "--like", "LlamaForCausalLM", "--blocks", "model")
    assert code == 2
    assert "give one of them" in error
    assert os.listdir(tmp_path) == []


def test_a_directory_cannot_be_streamed(tmp_path: Path) -> None:
    code, _, error = run(SOURCE, tmp_path / "made", "--stream")
    assert code == 1
    assert error.endswith("is a directory; only models of the hub can be streamed\n")


INTERRUPTED = """
import os, signal, sys
from octet.cli import octet
from octet.quantize import writer
real, number = writer._take, 5
def take(*arguments):
    global number
    number -= 1
    if number == 0:
        os.kill(os.getpid(), signal.SIGINT)
    real(*arguments)
writer._take = take
octet(sys.argv[1:])
"""


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, "quantize", SOURCE, tmp_path / "made"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 130
    assert process.stderr == (
        f"octet: interrupted; what is done so far lies in {tmp_path / '.made.octet-quantize'}: "
        "the same command goes on with it, or remove it\n"
    )
    assert os.listdir(tmp_path) == [".made.octet-quantize"]
    assert run(SOURCE, tmp_path / "made")[0] == 0
    assert os.listdir(tmp_path) == ["made"]


@pytest.fixture
def hub(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose hub cache holds one model, and which cannot reach the hub."""
    cached = tmp_path / "hf/hub" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(SOURCE, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(COMMIT)
    unset = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}


def test_a_hub_id_is_taken_from_the_cache_and_named_in_the_card(tmp_path: Path, hub: dict[str, str]) -> None:
    command = [sys.executable, "-m", "octet", "quantize", NAME, tmp_path / "made", "--revision", "main"]
    subprocess.run(command, env=hub, check=True, capture_output=True)
    card = (tmp_path / "made/README.md").read_text()
    assert f"\nbase_model: {NAME}\n" in card
    assert "\nbase_model_relation: quantized\n" in card
    assert f"The FP8-Dynamic form of `{NAME}` at revision `{COMMIT}`" in card


def test_a_hub_id_that_is_not_cached_is_one_line(tmp_path: Path, hub: dict[str, str]) -> None:
    command = [sys.executable, "-m", "octet", "quantize", "octet-tests/other", tmp_path / "made"]
    process = subprocess.run(command, env=hub, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr == (
        "octet: error: octet-tests/other is not in the local cache, and the hub cannot be reached\n"
    )
    assert not (tmp_path / "made").exists()


def test_neither_a_directory_nor_a_hub_id(tmp_path: Path) -> None:
    code, _, error = run(tmp_path / "not/there/at/all", tmp_path / "made")
    assert code == 1
    assert error.endswith("is neither a directory nor a hub id\n")


UNUSED = """
import sys
from octet.cli import octet
octet(sys.argv[1:], standalone_mode=False)
assert not {"torch", "huggingface_hub", "rich.progress"} & sys.modules.keys()
"""


def test_libraries_that_take_long_to_import_are_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", UNUSED, "quantize", SOURCE, tmp_path / "made"]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_an_unknown_instruction_set_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "octet", "quantize", SOURCE, tmp_path / "made"]
    process = subprocess.run(command, env=os.environ | {"OCTET_ISA": "mmx"}, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.startswith(
        'octet: error: OCTET_ISA: this machine has no kernels named "mmx"; it has '
    )
    assert process.stderr.count("\n") == 1
