"""`octet chat`: ask a server, and print its answer as it streams."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octet.cli.answers import report_end, show, to_json
from octet.cli.connecting import (
    FILE,
    check_images,
    connected,
    connection_options,
    given,
    sampling_options,
)

if TYPE_CHECKING:
    from octet.client import Answer, ChatOptions, Client, ToolCall
    from octet.client.requests import Conversation

_EPILOG = """\b
Without TEXT it holds a conversation: every line of standard input is a turn (/help
tells more). Standard output gets the answer alone; everything else goes to standard error.
With --tools, each call that the model makes is part of the answer: one line
  {"id": "call_1", "name": "get_weather", "arguments": {"city": "Oslo"}}
FILE for --tools holds a JSON list of objects with name, description, parameters
(a JSON Schema) and, to hold arguments to it, "strict": true, or OpenAI's
{"type": "function", "function": {...}} around them.
\b
Exit status: 0 answered, 1 the call failed, 2 wrong usage, 130 interrupted."""


def _read_tools(context: click.Context, parameter: click.Parameter, value: Path | None) -> list[Any]:
    if value is None:
        return []
    try:
        tools = json.loads(value.read_text())
    except ValueError as error:
        raise click.BadParameter(f"{value} is not JSON: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise click.BadParameter(f"{value} holds no list of objects")
    return tools


@click.command(epilog=_EPILOG)
@click.argument("text", required=False)
@connection_options
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE|URI",
    callback=check_images,
    help="A picture to ask about; may be given several times.",
)
@click.option("--system", help="Instructions for the model.")
@click.option("--begin", metavar="TEXT", help="What the answer begins with; the rest is printed.")
@click.option(
    "--tools",
    metavar="FILE",
    type=FILE,
    callback=_read_tools,
    help="Functions that the model may ask for.",
)
@click.option("--tool-choice", metavar="auto|none|required|NAME", help="Whether, or which, tool to call.")
@click.option(
    "--allowed-tool",
    "allowed_tools",
    multiple=True,
    metavar="NAME",
    help="Let it call only this one of the --tools; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each whole answer as one line of JSON.")
@sampling_options
def chat(
    text: str | None,
    target: str,
    api_key: str | None,
    as_json: bool,
    begin: str | None,
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    **options: Any,
) -> None:
    """Ask a server TEXT, and print its answer as it streams; without TEXT, hold a conversation."""
    from octet.cli.conversation import Talk

    if begin and text is None:
        raise click.UsageError(
            "--begin goes with a TEXT; in a conversation, /continue goes on with an answer"
        )
    asked: ChatOptions = given(options)  # type: ignore[assignment]
    with connected(target, api_key=api_key, tls=tls, ca=ca, certificate=certificate, key=key) as client:

        def ask(conversation: "Conversation", options: "ChatOptions") -> "Answer":
            return _ask(client, conversation, options, as_json=as_json)

        if text is None:
            Talk(ask, asked).run()
        else:
            ask(*_beginning(text, begin, asked))


def _beginning(text: str, begin: str | None, options: "ChatOptions") -> "tuple[Conversation, ChatOptions]":
    """What is asked, with the beginning of the answer, and the options that are left."""
    from octet.client import assistant
    from octet.client.requests import turns_of

    if begin is None:
        return text, options
    left = options.copy()
    # The turns hold these two already.
    left.pop("images", None)
    left.pop("system", None)
    return [*turns_of(text, options), assistant(begin)], left


def _ask(
    client: "Client", conversation: "Conversation", options: "ChatOptions", *, as_json: bool
) -> "Answer":
    """Shows an answer while it comes, and what it ends with."""
    with client.stream(conversation, **options) as stream:
        show(stream, silent=as_json)
        answer = stream.answer()
    if as_json:
        click.echo(to_json(answer.response))
        return answer
    for call in answer.tool_calls:
        click.echo(_to_line(call))
    report_end(answer.finish_reason, remedy="see --max-tokens, or say /continue")
    return answer


def _to_line(call: "ToolCall") -> str:
    line: dict[str, Any] = {"id": call.id, "name": call.name}
    try:
        line["arguments"] = call.arguments
    except ValueError:
        line["arguments_json"] = call.arguments_json
    return json.dumps(line, ensure_ascii=False)
