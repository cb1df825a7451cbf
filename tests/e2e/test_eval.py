"""`octet eval perplexity` and `generate` on the bf16 master of the demo checkpoint and what `octet quantize`
makes of it with a LoRA adapter, through the real engine.

Each model is started once for all tests here: the engines that the commands ask for stay, and so does their
event loop.
"""

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from octet import demo
from octet.cli.eval import eval as eval_command
from octet.cli.quantize import quantize as quantize_command
from octet.engine.vllm.serving.scoring import Answerer, scorer
from octet.evaluate import generate, perplexity
from tools.demo_checkpoint.held_out_text import SEPARATOR, conversations

MASTER = Path(__file__).parents[2] / "tools" / "demo_checkpoint" / "master"
ENGINE = "--enforce-eager --kv-cache-memory-bytes 256M --max-num-seqs 8"

# Adapted layers have float32 scales, and others of a fused one bfloat16.
ADAPTED = ("self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj")

QUESTIONS = ["What is the capital of France?", "Who are you?", "Tell me about the sea."]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bf16 master with the files that make it a model."""
    folder = tmp_path_factory.mktemp("eval") / "bf16"
    shutil.copytree(demo.PATH, folder, ignore=shutil.ignore_patterns("*.py", "*.safetensors", "__pycache__"))
    for path in MASTER.iterdir():
        shutil.copy(path, folder)
    return str(folder)


@pytest.fixture(scope="module")
def quantized(source: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The master quantized, its output layer too, with an adapter merged that changes next to nothing."""
    folder = tmp_path_factory.mktemp("quantized")
    (folder / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (folder / "adapter/adapter_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    matrices = {}
    for path in Path(source).glob("*.safetensors"):
        for name, weight in load_file(path).items():
            module = name.removesuffix(".weight")
            if "language_model" in name and module.endswith(ADAPTED):
                outputs, inputs = weight.shape
                matrices[f"base_model.model.{module}.lora_A.weight"] = torch.randn(2, inputs) * 0.01
                matrices[f"base_model.model.{module}.lora_B.weight"] = torch.randn(outputs, 2) * 0.01
    save_file(matrices, folder / "adapter/adapter_model.safetensors")
    arguments = [source, str(folder / "made"), "--adapter", str(folder / "adapter"), "--vocabulary"]
    result = CliRunner().invoke(quantize_command, arguments)
    assert result.exit_code == 0, result.output
    return str(folder / "made")


class Engines:
    """Those that were started, by model and flags; and their event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._running: dict[tuple[str, ...], Answerer] = {}
        self.run = self._loop.run

    @property
    def started(self) -> int:
        return len(self._running)

    @asynccontextmanager
    async def scorer(self, model: str, engine_flags: Sequence[str] = ()) -> AsyncIterator[Answerer]:
        """As the real one, but that it goes on running."""
        key = (model, *engine_flags)
        if key not in self._running:
            self._running[key] = await self._stack.enter_async_context(scorer(model, engine_flags))
        yield self._running[key]

    def close(self) -> None:
        self.run(self._stack.aclose())
        self._loop.close()


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    found = Engines()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def kept(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands' engines are the ones above."""
    monkeypatch.setattr(asyncio, "run", engines.run)
    for module in (perplexity, generate):
        monkeypatch.setattr(module, "scorer", engines.scorer)
    # What the command sets, where nothing is set, must not reach other tests.
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(eval_command, [*arguments, "--engine-args", ENGINE])


def figures(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def failure(*arguments: str) -> str:
    """The line that a command ends with."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("octet: error: ")
    return last.removeprefix("octet: error: ")


@pytest.mark.timeout(900)
def test_a_quantized_checkpoint_predicts_what_its_master_does(
    source: str, quantized: str, tmp_path: Path
) -> None:
    """A divergence of thousandths of a nat, over the whole vocabulary, and every token counted once."""
    from transformers import PreTrainedTokenizerFast

    documents = conversations(seed=2, count=6)
    text = tmp_path / "text"
    text.write_text(f"\n{SEPARATOR}\n".join(documents))
    arguments = (
        "perplexity",
        quantized,
        source,
        "--text",
        str(text),
        "--separator",
        SEPARATOR,
        "--window",
        "96",
    )
    [found] = figures(*arguments)["models"]
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
    assert math.isclose(found["ratio"], found["perplexity"] / found["source_perplexity"], rel_tol=1e-6)
    # The texts differ far more from each other than the models do in what they make of them.
    assert found["ratio_error"] < found["perplexity_error"] / found["perplexity"]


def test_of_a_long_text_a_sample_is_scored(source: str, quantized: str, tmp_path: Path) -> None:
    """The same one for the same seed, and for both models; the other figures stay near."""
    text = tmp_path / "text"
    text.write_text("".join(conversations(seed=3, count=40)))
    arguments = ["perplexity", quantized, source, "--text", str(text), "--window", "48", "--sample", "5"]
    first, other = (figures(*arguments, "--seed", seed) for seed in ("1", "2"))
    assert (first["seed"], other["seed"]) == (1, 2)
    assert first["all_windows"] == other["all_windows"] > 100
    [one], [two] = first["models"], other["models"]
    assert one["windows"] == two["windows"] == 5
    assert one["perplexity"] != two["perplexity"]
    shown = run(*arguments, "--seed", "1")
    assert f"{one['tokens']} tokens in 5 of {first['all_windows']} windows; KL over the whole" in shown.stdout
    for figure, error in (("source_perplexity",) * 2, ("perplexity",) * 2, ("ratio",) * 2):
        assert f" {one[figure]:.4f} ± {one[error + '_error']:.4f}" in shown.stdout
    assert f"octet: loading {source}\noctet: {source}: " in shown.stderr
    assert f"octet: {quantized}: 5 of 5 windows\n" in shown.stderr


def test_two_models_answers_are_compared(source: str, quantized: str, tmp_path: Path) -> None:
    """Greedy ones: of a model with itself they are equal, of another they part at a token."""
    prompts = tmp_path / "prompts"
    prompts.write_text("\n\n".join(QUESTIONS) + "\n")
    arguments = ["--prompts", str(prompts), "--max-tokens", "10"]
    same = figures("generate", quantized, quantized, *arguments)
    assert same["equal"] == 1
    assert [pair["prompt"] for pair in same["pairs"]] == QUESTIONS
    assert all(pair["first"] == pair["second"] and pair["equal"] for pair in same["pairs"])
    assert same["mean_common"] == sum(pair["common"] for pair in same["pairs"]) / 3
    assert all(0 < pair["common"] <= 10 for pair in same["pairs"])
    shown = run("generate", quantized, source, *arguments)
    assert all(question in shown.stdout for question in QUESTIONS)
    assert " of 3 answers are equal (" in shown.stdout
    assert f"octet: {source}: 3 of 3 answers\n" in shown.stderr


def test_what_cannot_be_compared_is_said_in_a_line_and_before_any_start(
    source: str, quantized: str, tmp_path: Path, engines: Engines
) -> None:
    text, empty, other = tmp_path / "text", tmp_path / "empty", tmp_path / "other"
    text.write_text("A text.")
    empty.write_text("\n \n")
    shutil.copytree(source, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["x"] = vocabulary["x"], vocabulary["A"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    started = engines.started
    assert failure("perplexity", quantized, "/no/such/model", "--text", str(text)) == (
        "no such model: /no/such/model is not a directory"
    )
    assert failure("perplexity", quantized, source, "--text", str(empty)) == f"{empty} holds no text"
    assert failure("generate", quantized, source, "--prompts", str(empty)) == f"{empty} holds no prompt"
    for command, flag in (("perplexity", "--text"), ("generate", "--prompts")):
        message = failure(command, str(other), source, flag, str(text))
        assert message in {
            f"{one} has another tokenizer than {two}" for one, two in ((source, other), (other, source))
        }
    assert engines.started == started


def test_what_does_not_fit_is_one_line(source: str, quantized: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("A text.")
    assert failure("perplexity", quantized, source, "--text", str(text)) == (
        "the text has 3 tokens, fewer than a window of 512: take a longer text, or a smaller --window"
    )
    long = tmp_path / "long"
    long.write_text("word " * 5000)
    assert "tokens" in failure("generate", quantized, source, "--prompts", str(long))
