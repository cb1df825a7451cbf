"""How commands print what a model writes: while it comes, and how it ended."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message


def show(pieces: Iterable[str], *, silent: bool) -> None:
    """Prints text while it comes, to the end of a line; only waits for its end when `silent`."""
    ends_line = True
    for piece in pieces:
        if not silent:
            click.echo(piece, nl=False)
            sys.stdout.flush()
            ends_line = piece.endswith("\n")
    if not ends_line:
        click.echo()


def to_json(response: "Message") -> str:
    """A response as one line of JSON."""
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(response, preserving_proto_field_name=True, indent=None, ensure_ascii=False)


def report_end(finish_reason: str, *, remedy: str) -> None:
    """Says why an answer ended, where it is not the model that has ended it.

    Args:
        finish_reason: the name of the reason.
        remedy: what helps against an answer that was cut off.
    """
    if finish_reason == "LENGTH":
        click.echo(f"octet: the answer was cut off at its token limit; {remedy}", err=True)
    if finish_reason == "CANCELLED":
        click.echo("octet: somebody cancelled the request", err=True)
