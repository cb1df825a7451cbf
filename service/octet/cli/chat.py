"""`octet chat`: ask a server, and print its answer as it streams."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from octet.client import Answer, ChatOptions, Client, OctetRpcError, ToolCall
    from octet.client.requests import Conversation

_EXIT_INTERRUPTED = 130

_EPILOG = """\b
Without TEXT it holds a conversation: every line of standard input is a turn (/help
tells more). Standard output gets the answer alone; everything else goes to standard error.
With --tools, each call that the model makes is part of the answer: one line
  {"id": "call_1", "name": "get_weather", "arguments": {"city": "Oslo"}}
FILE for --tools holds a JSON list of objects with name, description and parameters
(a JSON Schema), or OpenAI's {"type": "function", "function": {...}} around them.
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


def _check_images(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    for image in value:
        if not image.startswith(("data:", "https:")) and not Path(image).is_file():
            raise click.BadParameter(f"{image} is neither a file nor a data: or https: URI")
    return value


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog=_EPILOG)
@click.argument("text", required=False)
@click.option("--target", default="127.0.0.1:50051", show_default=True, help="The server's HOST:PORT.")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE|URI",
    callback=_check_images,
    help="A picture to ask about; may be given several times.",
)
@click.option("--system", help="Instructions for the model.")
@click.option("--begin", metavar="TEXT", help="What the answer begins with; the rest is printed.")
@click.option(
    "--tools",
    metavar="FILE",
    type=_FILE,
    callback=_read_tools,
    help="Functions that the model may ask for.",
)
@click.option("--tool-choice", metavar="auto|none|required|NAME", help="Whether, or which, tool to call.")
@click.option("--json", "as_json", is_flag=True, help="Print each whole answer as one line of JSON.")
@click.option("--tls", is_flag=True, help="Encrypt, trusting the usual authorities.")
@click.option("--ca", type=_FILE, metavar="FILE", help="Encrypt, trusting this authority (PEM).")
@click.option("--certificate", type=_FILE, metavar="FILE", help="This client's own certificate (PEM).")
@click.option("--key", type=_FILE, metavar="FILE", help="The private key of --certificate (PEM).")
@click.option("--api-key", envvar="OCTET_API_KEY", show_envvar=True, help="The server's key.")
@click.option("--model", help="A served model's name.  [default: the server's first]")
@click.option("--max-tokens", type=int, help="Most tokens of the answer.")
@click.option("--temperature", type=float, help="0 is greedy.  [default: the model's]")
@click.option("--seed", type=int, help="Makes sampling reproducible.")
@click.option("--timeout", type=float, help="Seconds until the call is given up.  [default: 600]")
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
    # What goes wrong is told in a line of our own.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from octet.cli.conversation import Talk
    from octet.client import Client, OctetRpcError, Tls

    if begin and text is None:
        raise click.UsageError(
            "--begin goes with a TEXT; in a conversation, /continue goes on with an answer"
        )
    given: ChatOptions = {}
    # Zero is a value; an empty tuple or list says nothing.
    given.update({name: value for name, value in options.items() if value not in (None, (), [])})  # type: ignore[typeddict-item]
    try:
        encryption = Tls(ca, certificate, key) if tls or ca or certificate or key else None
        with Client(target, api_key=api_key, tls=encryption) as client:

            def ask(conversation: "Conversation", options: "ChatOptions") -> "Answer":
                return _ask(client, conversation, options, as_json=as_json)

            if text is None:
                Talk(ask, given).run()
            else:
                ask(*_beginning(text, begin, given))
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    except OctetRpcError as error:
        _report(error, target)
    except KeyboardInterrupt:
        click.echo("octet: interrupted", err=True)
        sys.exit(_EXIT_INTERRUPTED)


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
        ends_line = True
        for piece in stream:
            if not as_json:
                click.echo(piece, nl=False)
                sys.stdout.flush()
                ends_line = piece.endswith("\n")
        if not ends_line:
            click.echo()
        answer = stream.answer()
    if as_json:
        click.echo(_to_json(answer))
        return answer
    for call in answer.tool_calls:
        click.echo(_to_line(call))
    if answer.finish_reason == "LENGTH":
        click.echo(
            "octet: the answer was cut off at its token limit; see --max-tokens, or say /continue",
            err=True,
        )
    if answer.finish_reason == "CANCELLED":
        click.echo("octet: somebody cancelled the request", err=True)
    return answer


def _to_json(answer: "Answer") -> str:
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(answer.response, preserving_proto_field_name=True, indent=None, ensure_ascii=False)


def _to_line(call: "ToolCall") -> str:
    line: dict[str, Any] = {"id": call.id, "name": call.name}
    try:
        line["arguments"] = call.arguments
    except ValueError:
        line["arguments_json"] = call.arguments_json
    return json.dumps(line, ensure_ascii=False)


def _report(error: "OctetRpcError", target: str) -> NoReturn:
    """Says what went wrong and what to do, and exits."""
    if error.code.name == "UNAVAILABLE" and not error.reason:
        message = (
            f"no server answers at {target}; start one with `octet serve`, or name another with --target"
        )
    elif error.field_violations:
        wrong = "; ".join(
            f"{violation.field}: {violation.description}" for violation in error.field_violations
        )
        message = f"{error.code.name}: {wrong}"
    else:
        message = f"{error.code.name}: {error.message}"
    click.echo(f"octet: error: {message}", err=True)
    if error.code.name == "UNAUTHENTICATED":
        click.echo("octet: give the server's key with --api-key, or in OCTET_API_KEY", err=True)
    sys.exit(1)
