"""`octet eval perplexity` on the demo checkpoint and its bf16 master, through the real engine."""

import json
import math
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from octet import demo
from octet.cli.eval import eval as eval_command
from tools.demo_checkpoint.held_out_text import SEPARATOR, conversations

MASTER = Path(__file__).parents[2] / "tools" / "demo_checkpoint" / "master"
ENGINE = "--enforce-eager --kv-cache-memory-bytes 256M --max-num-seqs 8"


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The bf16 master with the files that make it a model."""
    folder = tmp_path / "bf16"
    shutil.copytree(demo.PATH, folder, ignore=shutil.ignore_patterns("*.py", "*.safetensors", "__pycache__"))
    for path in MASTER.iterdir():
        shutil.copy(path, folder)
    return str(folder)


@pytest.mark.timeout(900)
def test_the_demo_checkpoint_predicts_what_its_master_does(source: str, tmp_path: Path) -> None:
    """A divergence of thousandths of a nat, over the whole vocabulary, and every token counted once."""
    from transformers import PreTrainedTokenizerFast

    documents = conversations(seed=2, count=6)
    text = tmp_path / "text"
    text.write_text(f"\n{SEPARATOR}\n".join(documents))
    arguments = ["perplexity", str(demo.PATH), source, "--text", str(text), "--separator", SEPARATOR]
    arguments += ["--window", "96", "--engine-args", ENGINE, "--json"]
    result = CliRunner().invoke(eval_command, arguments)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["models"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(demo.PATH)
    tokens = [tokenizer.encode(document, add_special_tokens=False) for document in documents]
    ends = [0 if document.endswith("\n") else 1 for document in documents[:-1]]
    assert all(ids[0] == tokenizer.bos_token_id for ids in tokens)
    assert abs(found["tokens"] - sum(len(ids) - 1 for ids in tokens)) <= sum(ends) + len(documents)
    assert found["exact"]
    assert 0 < found["mean"] < 0.05
    assert found["maximum"] < 2
    assert found["same_top"] > 0.93
    assert math.isclose(found["perplexity"], found["source_perplexity"], rel_tol=0.05)


def test_a_model_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("A text.")
    arguments = ["perplexity", str(demo.PATH), "/no/such/model", "--text", str(text)]
    result = CliRunner().invoke(eval_command, arguments)
    assert result.exit_code == 1
    assert result.stderr.endswith("octet: error: no such model: /no/such/model is not a directory\n")
