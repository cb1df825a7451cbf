"""`octet complete`: have a model go on from a prompt as it is, without a chat template."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octet.cli.answers import report_end, show, to_json
from octet.cli.connecting import check_images, connected, connection_options, given, sampling_options

if TYPE_CHECKING:
    from octet.client import CompletionStream

_EPILOG = """\b
Without TEXT the prompt is all of standard input. Standard output gets what follows on the
prompt alone; everything else goes to standard error. Names of special tokens in the prompt,
such as <start_of_turn>, are these tokens unless --plain is given.
\b
Exit status: 0 answered, 1 the call failed, 2 wrong usage, 130 interrupted."""


@click.command(epilog=_EPILOG)
@click.argument("text", required=False)
@connection_options
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE|URI",
    callback=check_images,
    help="A picture that goes before the text; may be given several times.",
)
@click.option("--plain", is_flag=True, help="Take names of special tokens in the prompt for plain text.")
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as one line of JSON.")
@sampling_options
def complete(
    text: str | None,
    target: str,
    api_key: str | None,
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    images: tuple[str, ...],
    plain: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Have a server's model go on from TEXT as it is, and print what follows as it streams."""
    from octet.client.images import to_image
    from octet.v1 import prompt_pb2

    prompt = prompt_pb2.Prompt()
    for image in images:
        prompt.parts.add(image=to_image(image))
    prompt.parts.add(text=sys.stdin.read() if text is None else text)
    with (
        connected(target, api_key=api_key, tls=tls, ca=ca, certificate=certificate, key=key) as client,
        client.stream_complete(prompt, parse_special_tokens=not plain, **given(options)) as stream,
    ):
        _show(stream, as_json=as_json)


def _show(stream: "CompletionStream", *, as_json: bool) -> None:
    """Prints what follows while it comes, and says what it ends with."""
    show(stream, silent=as_json)
    answer = stream.answer()
    if as_json:
        click.echo(to_json(answer.response))
    else:
        report_end(answer.finish_reason, remedy="see --max-tokens")
