"""`octet bench`: measure the kernels on this machine, and servers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from octet.cli.bench_files import check_files, json_option, plot_option, write_json
from octet.cli.bench_serve import serve

if TYPE_CHECKING:
    from octet.bench.run import Settings


@click.group()
def bench() -> None:
    """Measure the kernels on this machine, or a running server."""


bench.add_command(serve)


@bench.command()
@json_option
@plot_option("a roofline plot")
@click.option("--isa", "isas", multiple=True, help="CPU kernels by name; again for more.  [default: all]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--only", multiple=True, metavar="KERNEL", help="An operator; again for more.  [default: all]")
@click.option(
    "--shape",
    "shape_names",
    multiple=True,
    metavar="NAME",
    help="A linear layer such as 12b/down, or a width such as 3840; again for more.  [default: all]",
)
@click.option("--rows", type=click.IntRange(min=1), multiple=True, help="Tokens; again for more.")
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option(
    "--quick", is_flag=True, help="Few shapes, little time: a minute instead of a quarter of an hour."
)
def kernels(
    json_file: Path | None,
    plot_file: Path | None,
    isas: tuple[str, ...],
    device: str,
    only: tuple[str, ...],
    shape_names: tuple[str, ...],
    rows: tuple[int, ...],
    threads: tuple[int, ...],
    quick: bool,
) -> None:
    """Measure every kernel, beside a copy of as many bytes, torch's own operators and what vLLM uses.

    All that is compared is measured in turns. Times are medians, with quartiles.
    """
    check_files(json_file, plot_file)
    settings = _settings(isas, device, only, shape_names, rows, threads, quick=quick)
    from octet.bench.report import print_report
    from octet.bench.run import run

    report = run(settings, _show_progress)
    _show_progress("")
    print_report(report)
    write_json(report.as_json(), json_file)
    if plot_file is not None:
        from octet.bench.plot import save

        save(report, plot_file)


def _settings(
    isas: tuple[str, ...],
    device: str,
    only: tuple[str, ...],
    shape_names: tuple[str, ...],
    rows: tuple[int, ...],
    threads: tuple[int, ...],
    *,
    quick: bool,
) -> "Settings":
    """Checks what was asked for against what there is; click.UsageError names what is not."""
    from octet import ops
    from octet.bench import cases, shapes
    from octet.bench.run import Settings
    from octet.engine.vllm.kernels import operators

    if device == "cuda":
        _require_gpu()
    # Not what works in place: a call would find what the one before it has left.
    kernels = tuple(name for name in operators(device) if name in (*cases.ROW_KERNELS, *cases.LINEAR_KERNELS))
    _require_known("kernel", only, kernels)
    _require_known("shape", shape_names, (*shapes.LINEAR, *shapes.WIDTHS))
    _require_known("ISA", isas, ops.available_isas())
    if device == "cuda" and isas:
        raise click.UsageError("--isa names CPU kernels; leave it out with --device cuda")
    linear = tuple(name for name in shape_names if name in shapes.LINEAR)
    widths = tuple(name for name in shape_names if name in shapes.WIDTHS)
    if not shape_names:
        linear = shapes.QUICK_LINEAR if quick else tuple(shapes.LINEAR)
        widths = shapes.QUICK_WIDTHS if quick else tuple(shapes.WIDTHS)
    return Settings(
        kernels=only or kernels,
        isas=isas or tuple(reversed(ops.available_isas())),
        threads=threads if device == "cpu" else (1,),
        linear=linear,
        widths=widths,
        linear_rows=tuple(sorted(rows)) or (shapes.QUICK_LINEAR_ROWS if quick else shapes.LINEAR_ROWS),
        width_rows=tuple(sorted(rows)) or (shapes.QUICK_WIDTH_ROWS if quick else shapes.WIDTH_ROWS),
        seconds=0.05 if quick else 0.3,
        device=device,
    )


def _require_known(kind: str, wanted: tuple[str, ...], known: tuple[str, ...] | list[str]) -> None:
    for name in wanted:
        if name not in known:
            raise click.UsageError(f"no {kind} {name!r} here; there are {', '.join(known)}")


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise click.ClickException("--device cuda: torch finds no GPU on this machine")


def _show_progress(what: str) -> None:
    """Keeps one line of standard error up to date, where somebody watches."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{what}", nl=False, err=True)
