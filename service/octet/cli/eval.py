"""`octet eval`: measure what quantization costs a model."""

import asyncio
import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from octet.cli.tables import console
from octet.errors import OctetError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from octet.evaluate.comparing import Progress
    from octet.evaluate.generate import Comparison
    from octet.evaluate.perplexity import Evaluation
    from octet.evaluate.weights import LayerError, WeightComparison

_ENGINE_ARGS = click.option(
    "--engine-args",
    default="",
    metavar="FLAGS",
    help="vLLM's flags for every model, in one string; `octet serve --help-engine` lists them.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")


@click.group("eval")
def eval() -> None:
    """Measure what quantization costs a model: in its weights, predictions of a text, and answers."""


@eval.command()
@click.argument("quantized")
@click.argument("source")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the SQNR over the layers into this PNG file; needs matplotlib.",
)
@_JSON
def weights(quantized: str, source: str, plot: Path | None, as_json: bool) -> None:
    """Compare the FP8 weights of QUANTIZED with those of SOURCE, from which it was made.

    Both are directories, or hub ids in the local cache. For each linear layer: SQNR, which is 10 log10 of the
    weights' sum of squares by that of the errors, in dB, and the output channel whose own SQNR is the
    smallest. No model is run, and one piece of one tensor is in memory at a time.
    """
    from octet.evaluate import plot as plotting
    from octet.evaluate.weights import WeightComparison

    with _one_line_errors():
        if plot is not None:
            plotting.require_matplotlib()
        comparison = WeightComparison(quantized, source)
        errors = list(_with_progress(comparison))
        if plot is not None:
            plotting.plot_errors(errors, plot)
    if as_json:
        rows = [{"module": e.module, "format": e.format} | asdict(e.error) for e in errors]
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_errors(errors)


@eval.command()
@click.argument("quantized", nargs=-1, required=True)
@click.argument("source")
@click.option(
    "--text",
    "text_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The text to predict, UTF-8. The tokenizer reads special tokens in it.",
)
@click.option(
    "--separator",
    metavar="LINE",
    help="Line that parts documents; none is context of another.  [default: none]",
)
@click.option(
    "--window",
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Most tokens that a model reads at once; at most its context.",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    help="Tokens by which the window moves; the others of it are context.  [default: half the window]",
)
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Most windows that are scored, drawn by lot where the text has more, so that a book takes no longer "
    "than a chapter; 0 scores all.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of that lot.")
@click.option(
    "--top",
    type=click.IntRange(min=0),
    help="Compare this many of the most probable tokens at each place, which bounds the divergence from "
    "below; 0 compares the whole vocabulary.  [default: 0 up to 8192 tokens, 256 beyond]",
)
@_ENGINE_ARGS
@click.option(
    "--fp8-vocabulary",
    is_flag=True,
    help="Run each QUANTIZED model with --fp8-vocabulary, as `octet serve` takes it, and SOURCE without; "
    "both may be the same model.",
)
@_JSON
def perplexity(
    quantized: tuple[str, ...],
    source: str,
    text_file: Path,
    separator: str | None,
    window: int,
    stride: int | None,
    sample: int,
    seed: int,
    top: int | None,
    engine_args: str,
    fp8_vocabulary: bool,
    as_json: bool,
) -> None:
    """Let SOURCE and each QUANTIZED model predict a text, and compare.

    Models are directories or hub ids, run through vLLM on this machine, one after the other; SOURCE is the
    unquantized one. Printed are

    \b
      perplexity  exp of the mean negative log probability of the text's tokens;
      ratio       of a quantized model's perplexity to SOURCE's;
      KL          mean over tokens of the Kullback-Leibler divergence of the
                  quantized model's prediction from SOURCE's, in nats, with its
                  99th percentile and its largest value;
      same top    share of places where both find the same token most probable.

    What follows ± is a standard error over windows; the ratio's is that of the difference in each window, and
    so much smaller than the perplexities'. Windows slide over the text, and each token is predicted once at
    most. With --top above 0 the divergence is a lower bound: tokens that are not among the most probable of
    both models count as one.
    """
    from octet.engine.vllm.launch.logs import configure_logging
    from octet.evaluate.comparing import EvaluationError
    from octet.evaluate.perplexity import Settings, evaluate
    from octet.evaluate.windows import split_documents

    with _one_line_errors():
        documents = split_documents(_read(text_file), separator)
        if not any(map(str.strip, documents)):
            raise EvaluationError(f"{text_file} holds no text")
        settings = Settings(
            window=window,
            stride=stride or window // 2,
            sample=sample,
            seed=seed,
            top=top,
            engine_flags=_flags(engine_args),
            quantized_flags=("--fp8-vocabulary",) if fp8_vocabulary else (),
        )
        configure_logging("text", "warning")  # what is said meanwhile is this command's own
        with _progress("windows") as progress:
            evaluation = asyncio.run(evaluate(source, quantized, documents, settings, progress))
    if as_json:
        models = [{"model": n} | asdict(each) for n, each in zip(quantized, evaluation.models, strict=True)]
        text = {"text": str(text_file), "all_windows": evaluation.all_windows, "seed": seed}
        click.echo(json.dumps({"source": source, **text, "models": models}, indent=2))
    else:
        _print_divergences(source, quantized, evaluation)


@eval.command()
@click.argument("first")
@click.argument("second")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What to ask, UTF-8: a prompt a line, or with --separator several lines each.  [default: eight "
    "questions of all kinds]",
)
@click.option("--separator", metavar="LINE", help="Line that parts prompts.  [default: every line is one]")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Most tokens of an answer.",
)
@_ENGINE_ARGS
@_JSON
def generate(
    first: str,
    second: str,
    prompts_file: Path | None,
    separator: str | None,
    max_tokens: int,
    engine_args: str,
    as_json: bool,
) -> None:
    """Let two models answer the same prompts, the most probable token each time, and show where they part.

    FIRST and SECOND are directories or hub ids, such as a quantized model and its source, run through vLLM on
    this machine, one after the other. A prompt is a user's turn where the model has a chat template, and a
    text to be continued where it has none. For each are printed both answers and the first token that
    differs, counted from 0; for all of them the share of equal answers, and how many tokens answers have in
    common before they part, in the mean.
    """
    from octet.engine.vllm.launch.logs import configure_logging
    from octet.evaluate.comparing import EvaluationError
    from octet.evaluate.generate import PROMPTS, compare

    with _one_line_errors():
        prompts = PROMPTS if prompts_file is None else _prompts(_read(prompts_file), separator)
        if not prompts:
            raise EvaluationError(f"{prompts_file} holds no prompt")
        configure_logging("text", "warning")
        with _progress("answers") as progress:
            flags = _flags(engine_args)
            comparison = asyncio.run(compare(first, second, prompts, max_tokens, flags, progress))
    if as_json:
        click.echo(json.dumps({"first": first, "second": second} | asdict(comparison), indent=2))
    else:
        _print_answers(first, second, comparison)


def _prompts(text: str, separator: str | None) -> list[str]:
    from octet.evaluate.windows import split_documents

    parts = text.splitlines() if separator is None else split_documents(text, separator)
    return [part.strip("\r\n") for part in parts if part.strip()]


def _flags(engine_args: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(engine_args))
    except ValueError as error:
        raise click.UsageError(f"--engine-args: {error}") from error


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except OctetError as error:
        click.echo(f"octet: error: {error}", err=True)
        sys.exit(1)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error


def _with_progress(comparison: "WeightComparison") -> "Iterable[LayerError]":
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        comparison.errors(),
        description="comparing",
        total=len(comparison),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


@contextmanager
def _progress(things: str) -> "Iterator[Progress]":
    """Shows which model is loaded, and how many `things` it is through with: as a bar, or in lines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield partial(_print_progress, things)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(model: str, done: int, total: int) -> None:
            if total == 0:
                tasks[model] = bars.add_task(f"loading {model}", total=None)
            else:
                bars.update(tasks[model], description=model, completed=done, total=total)

        yield show


def _print_progress(things: str, model: str, done: int, total: int) -> None:
    if total == 0:
        click.echo(f"octet: loading {model}", err=True)
    elif done == total or done % max(1, total // 10) == 0:
        click.echo(f"octet: {model}: {done} of {total} {things}", err=True)


def _print_errors(errors: "list[LayerError]") -> None:
    from rich.table import Table

    table = Table("module", "format", "SQNR dB", "worst channel", "its SQNR dB", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for layer in errors:
        error = layer.error
        table.add_row(
            layer.module,
            layer.format,
            f"{error.sqnr:.2f}",
            str(error.worst_channel),
            f"{error.worst_sqnr:.2f}",
        )
    console().print(table)
    ordered = sorted(layer.error.sqnr for layer in errors)
    click.echo(
        f"{len(errors)} weights: {ordered[0]:.2f} dB at worst, {ordered[len(ordered) // 2]:.2f} in the "
        f"middle, {ordered[-1]:.2f} at best"
    )


def _print_divergences(source: str, models: tuple[str, ...], evaluation: "Evaluation") -> None:
    from rich.table import Table

    results = evaluation.models
    bound = "" if results[0].exact else " ≥"
    table = Table(
        "model",
        "perplexity",
        "ratio",
        f"KL{bound} (nats)",
        "99 %",
        "max",
        "same top",
        box=None,
        pad_edge=False,
    )
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row(source, _with_error(results[0].source_perplexity, results[0].source_perplexity_error))
    for model, result in zip(models, results, strict=True):
        table.add_row(
            model,
            _with_error(result.perplexity, result.perplexity_error),
            _with_error(result.ratio, result.ratio_error),
            _with_error(result.mean, result.standard_error, digits=5),
            f"{result.percentile_99:.4f}",
            f"{result.maximum:.4f}",
            f"{result.same_top:.2%}",
        )
    console().print(table)
    vocabulary = "the whole vocabulary" if results[0].exact else "the most probable tokens: lower bounds"
    windows = f"{results[0].windows} of {evaluation.all_windows} windows"
    click.echo(f"{results[0].tokens} tokens in {windows}; KL over {vocabulary}")


def _with_error(value: float, error: float | None, digits: int = 4) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _print_answers(first: str, second: str, comparison: "Comparison") -> None:
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table("prompt", escape(first), escape(second), "parts at", show_lines=True)
    table.columns[3].justify = "right"
    for pair in comparison.pairs:
        place = "equal" if pair.equal else str(pair.common)
        table.add_row(Text(pair.prompt), Text(pair.first), Text(pair.second), place)
    console().print(table)
    equal, count = sum(pair.equal for pair in comparison.pairs), len(comparison.pairs)
    click.echo(
        f"{equal} of {count} answers are equal ({comparison.equal:.0%}); in the mean "
        f"{comparison.mean_common:.1f} tokens are, before they part or end"
    )
