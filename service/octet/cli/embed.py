"""`octet embed`: ask a server for the vectors of texts."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from octet.cli.connecting import connected, connection_options, given

_EPILOG = """\b
Prints one line for each text, its vector as a JSON list. Without TEXT every line of standard
input is a text.
\b
Exit status: 0 answered, 1 the call failed, 2 wrong usage, 130 interrupted."""

_AT_ONCE = 64
"""Texts of a call."""


@click.command(epilog=_EPILOG)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@connection_options
@click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Whether vectors are scaled to length 1.  [default: the model's]",
)
@click.option("--dimensions", type=int, help="How many numbers of each vector to give.  [default: all]")
@click.option("--truncate", is_flag=True, default=None, help="Cut texts that are too long for the model.")
def embed(
    texts: tuple[str, ...],
    target: str,
    api_key: str | None,
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    **options: Any,
) -> None:
    """Ask a server for the vectors of TEXTs, and print them."""
    asked = list(texts) or [line for line in sys.stdin.read().splitlines() if line]
    if not asked:
        raise click.UsageError("give a text, or lines on standard input")
    with connected(target, api_key=api_key, tls=tls, ca=ca, certificate=certificate, key=key) as client:
        for begin in range(0, len(asked), _AT_ONCE):
            for vector in client.embed(asked[begin : begin + _AT_ONCE], **given(options)).vectors:
                click.echo(json.dumps(vector))
