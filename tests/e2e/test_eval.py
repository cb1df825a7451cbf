"""`octet eval perplexity` on the demo checkpoint, its bf16 master, and that with an FP8 vocabulary as
`octet quantize --vocabulary` writes it, through the real engine."""

import json
import math
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from octet import demo
from octet.cli.eval import eval as eval_command
from octet.cli.quantize import quantize as quantize_command
from tools.demo_checkpoint.held_out_text import SEPARATOR, conversations

MASTER = Path(__file__).parents[2] / "tools" / "demo_checkpoint" / "master"
ENGINE = "--enforce-eager --kv-cache-memory-bytes 256M --max-num-seqs 8"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command sets, where nothing is set, must not reach other tests."""
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The bf16 master with the files that make it a model."""
    folder = tmp_path / "bf16"
    shutil.copytree(demo.PATH, folder, ignore=shutil.ignore_patterns("*.py", "*.safetensors", "__pycache__"))
    for path in MASTER.iterdir():
        shutil.copy(path, folder)
    return str(folder)


@pytest.fixture
def whole(source: str, tmp_path: Path) -> str:
    """The same with its output layer quantized too, which shared the embedding."""
    folder = str(tmp_path / "whole")
    result = CliRunner().invoke(quantize_command, [source, folder, "--vocabulary"])
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.timeout(900)
def test_quantized_checkpoints_predict_what_their_master_does(
    source: str, whole: str, tmp_path: Path
) -> None:
    """A divergence of thousandths of a nat, over the whole vocabulary, and every token counted once."""
    from transformers import PreTrainedTokenizerFast

    documents = conversations(seed=2, count=6)
    text = tmp_path / "text"
    text.write_text(f"\n{SEPARATOR}\n".join(documents))
    arguments = ["perplexity", str(demo.PATH), whole, source, "--text", str(text), "--separator", SEPARATOR]
    arguments += ["--window", "96", "--engine-args", ENGINE, "--json"]
    result = CliRunner().invoke(eval_command, arguments)
    assert result.exit_code == 0, result.output
    for model in (source, str(demo.PATH), whole):
        assert f"octet: loading {model}\noctet: {model}: " in result.stderr
    found, vocabulary = json.loads(result.stdout)["models"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(demo.PATH)
    tokens = [tokenizer.encode(document, add_special_tokens=False) for document in documents]
    ends = [0 if document.endswith("\n") else 1 for document in documents[:-1]]
    assert all(ids[0] == tokenizer.bos_token_id for ids in tokens)
    assert abs(found["tokens"] - sum(len(ids) - 1 for ids in tokens)) <= sum(ends) + len(documents)
    assert vocabulary["tokens"] == found["tokens"]
    assert vocabulary["mean"] != found["mean"]
    for each in (found, vocabulary):
        assert each["exact"]
        assert 0 < each["mean"] < 0.05
        assert each["maximum"] < 2
        assert each["same_top"] > 0.93
        assert math.isclose(each["perplexity"], each["source_perplexity"], rel_tol=0.05)


def test_a_model_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("A text.")
    arguments = ["perplexity", str(demo.PATH), "/no/such/model", "--text", str(text)]
    result = CliRunner().invoke(eval_command, arguments)
    assert result.exit_code == 1
    assert result.stderr.endswith("octet: error: no such model: /no/such/model is not a directory\n")
