"""Where `octet bench` writes what it has measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.decorators import FC

FILE = click.Path(dir_okay=False, path_type=Path)

json_option = click.option("--json", "json_file", type=FILE, help="Write it all here.")


def plot_option(what: str) -> Callable[[FC], FC]:
    """The option for a drawing of `what`."""
    return click.option(
        "--plot",
        "plot_file",
        type=FILE,
        help=f"Draw {what}; needs matplotlib (pip install 'octet-serve[bench]').",
    )


def check_files(json_file: Path | None, plot_file: Path | None) -> None:
    """Refuses, before anything is measured, what could not be written after it.

    Raises:
        click.UsageError: a folder is missing.
        click.ClickException: matplotlib is.
    """
    for file in (json_file, plot_file):
        if file is not None and not file.resolve().parent.is_dir():
            raise click.UsageError(f"{file}: there is no such folder")
    if plot_file is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise click.ClickException(
                "--plot needs matplotlib; run `pip install 'octet-serve[bench]'`"
            ) from None


def write_json(report: Any, json_file: Path | None) -> None:
    """Writes a report where it was asked for."""
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
