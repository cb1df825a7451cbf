"""`octet doctor`: say what is installed, and whether a model would run."""

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from octet.doctor import Report

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def doctor(model: str | None, as_json: bool) -> None:
    """Say what is installed, and whether MODEL would run: a directory, or a hub id in the local cache.

    Exits with 1 when something would keep Octet from serving.
    """
    from octet.doctor import examine
    from octet.engine.vllm.launch.logs import quiet

    with quiet():
        report = examine(model)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    sys.exit(0 if report.healthy else 1)


def _print(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print("  ".join(f"{name} {version}" for name, version in report.versions.items()), markup=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in report.findings:
        status = Text(finding.status.value, style=_COLOURS[finding.status.value])
        detail = f"{finding.detail}\n  → {finding.remedy}" if finding.remedy else finding.detail
        table.add_row(status, finding.subject, Text(detail))
    console.print(table)
