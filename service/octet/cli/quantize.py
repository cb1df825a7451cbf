"""`octet quantize`: make an FP8-Dynamic checkpoint."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from octet.errors import OctetError
from octet.quantize.options import DEFAULT_IGNORE, DEFAULT_TARGETS, Format, Options
from octet.sizes import in_words

if TYPE_CHECKING:
    from octet.quantize.checkpoint import Result
    from octet.quantize.files import Phase

_FORMATS = click.Choice([format.value for format in Format])
_INTERRUPTED = 130


@click.command()
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option(
    "--adapter",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="LoRA adapter of PEFT's to merge into SOURCE: adapter_config.json and adapter_model.safetensors. "
    "Computed in float32; what is quantized is quantized from that, and any other tensor is rounded back to "
    "its dtype.",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Download the weight files of a hub id one after the other, each while the one before is quantized, "
    "and keep none: at most two are on the disk. --verify checks each before it goes.",
)
@click.option("--weights", type=_FORMATS, default="e4m3", show_default=True, help="Format of the weights.")
@click.option(
    "--activations",
    type=_FORMATS,
    default="e4m3",
    show_default=True,
    help="Format in which activations are quantized when the model is served.",
)
@click.option(
    "--targets",
    multiple=True,
    default=DEFAULT_TARGETS,
    show_default=True,
    metavar="LAYERS",
    help="Layers to quantize: Linear, a layer's name, or re:REGEX, which matches the name's start. "
    "Repeatable.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="LAYERS",
    help=f"Further layers not to quantize, in the same terms, besides {', '.join(DEFAULT_IGNORE)}. "
    "Of layers that vLLM loads as one, such as q_proj, k_proj and v_proj, name all. Repeatable.",
)
@click.option(
    "--no-default-ignore",
    is_flag=True,
    help="Leave out only what --ignore names. Without --vocabulary the output layer stays as it is all the "
    "same.",
)
@click.option(
    "--vocabulary",
    is_flag=True,
    help="Quantize the output layer too, whatever --ignore says; it stays otherwise. Where it shares "
    "the embedding it becomes a tensor of its own, and the embedding stays as it is.",
)
@click.option(
    "--like",
    metavar="FAMILY",
    help="Take the checkpoint for this architecture, such as LlamaForCausalLM, not for the one that its "
    "config names.",
)
@click.option(
    "--blocks",
    metavar="REGEX",
    help="Quantize the layers whose names begin so, such as 'model\\.layers\\.', but for routers: for "
    "checkpoints that neither Octet nor transformers knows.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print what would be quantized, what would stay and why, and the sizes; write nothing.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="one per processor",
    help="Threads that quantize and copy.",
)
@click.option(
    "--verify", is_flag=True, help="Read the result back, compare it with SOURCE, and measure its error."
)
def quantize(
    source: str,
    destination: Path,
    revision: str | None,
    adapter: Path | None,
    stream: bool,
    weights: str,
    activations: str,
    targets: tuple[str, ...],
    ignore: tuple[str, ...],
    no_default_ignore: bool,
    vocabulary: bool,
    like: str | None,
    blocks: str | None,
    dry_run: bool,
    workers: int,
    verify: bool,
) -> None:
    """Quantize SOURCE, a directory or a hub id, and write it to DESTINATION.

    Weights of linear layers become FP8 codes with one scale per output channel. No data is needed and no
    model is run. An interrupted run goes on when it is started again.

    Weights are read from safetensors, or, where there are none, from pytorch_model*.bin. Those are pickles:
    they are read in a process that can open no file, no socket and no program, and refused where they ask
    for more than tensors.
    """
    if like and blocks:
        raise click.UsageError("--like and --blocks are two answers to one question: give one of them")
    ignore = ignore if no_default_ignore else (*DEFAULT_IGNORE, *ignore)
    options = Options(
        weights=Format(weights),
        activations=Format(activations),
        targets=targets,
        ignore=ignore,
        vocabulary=vocabulary,
        workers=workers,
        verify=verify,
        like=like,
        blocks=blocks,
    )
    try:
        from octet.quantize.checkpoint import downloads, quantize_checkpoint, work_directory
        from octet.quantize.source import open_source

        folder = downloads(work_directory(destination)) if stream else None
        if dry_run:
            from octet.quantize.checked import checked_plan
            from octet.quantize.summary import describe

            for line in describe(checked_plan(open_source(source, revision, adapter, folder), options)):
                click.echo(line)
            return
        with _progress() as phase:
            found = open_source(source, revision, adapter, folder)
            result = quantize_checkpoint(found, destination, options, phase)
    except OctetError as error:
        click.echo(f"octet: error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        from octet.quantize.checkpoint import words_of_rest, work_directory

        work = work_directory(destination)
        rest = f"; {words_of_rest(work)}" if work.exists() else ""
        click.echo(f"octet: interrupted{rest}", err=True)
        sys.exit(_INTERRUPTED)
    _report(result)


@contextmanager
def _progress() -> "Iterator[Phase]":
    """Progress bars, where there is somebody to see them."""
    if not sys.stderr.isatty():
        yield lambda name, size: lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:

        def phase(name: str, size: int) -> Callable[[int], None]:
            task = progress.add_task(name, total=size)
            return lambda done: progress.advance(task, done)

        yield phase


def _report(result: "Result") -> None:
    click.echo(
        f"{result.directory}: {result.quantized} weights quantized, "
        f"{in_words(result.source_bytes)} became {in_words(result.bytes)}"
    )
    if result.errors:
        worst = min(result.errors, key=lambda error: error.error.sqnr)
        click.echo(
            f"verified: every copied tensor is equal; the worst weight is {worst.name} with "
            f"{worst.error.sqnr:.2f} dB (output channel {worst.error.worst_channel}: "
            f"{worst.error.worst_sqnr:.2f} dB)"
        )
    for warning in result.warnings:
        click.echo(f"octet: warning: {warning}", err=True)
