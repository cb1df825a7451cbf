"""The conversation that `octet chat` holds when it is given no text: a line of standard input is a turn."""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from octet.client import Answer, ChatOptions, ToolCall
    from octet.client.requests import Turn
    from octet.v1 import content_pb2

HELP = """\
  /image FILE  show a picture along with the next line, or with the result that is asked for
  /continue    go on with an answer that was cut off
  /reset       forget all that was said
  /quit        end; so does the end of the input
A line beginning with // is sent with one slash. What the model's tool calls give is asked for."""

Ask = Callable[["list[Turn]", "ChatOptions"], "Answer"]
"""Asks the server, shows the answer while it comes, and returns it."""


class Talk:
    """All that was said, and the pictures that go with the next line."""

    def __init__(self, ask: Ask, options: "ChatOptions") -> None:
        self._ask = ask
        self._options = options
        self._images = list(options.pop("images", ()))
        self._turns: list[Turn] = []
        self._answered = False  # whether an answer is what was said last

    def run(self) -> None:
        """Takes lines until the input ends or somebody quits.

        Raises:
            OctetRpcError: when a call fails.
        """
        for line in _lines("> "):
            if line == "/quit":
                return
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line:
                self._say(line.removeprefix("/") if line.startswith("//") else line)

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == "/reset":
            self._turns, self._images, self._answered = [], [], False
        elif name == "/continue" and self._answered:
            self._go_on()
        elif name == "/image" and argument:
            self._images.append(argument.strip())
        else:
            click.echo(HELP, err=True)

    def _say(self, text: str) -> None:
        from octet.client import user

        try:
            turn = user(text, self._images)
        except OSError as error:
            click.echo(f"octet: {error.filename}: {error.strerror}", err=True)
            return
        finally:
            self._images = []
        self._turns.append(turn)
        self._answered = False
        answer = self._ask(self._turns, self._options)
        self._turns.append(answer)
        self._answered = True
        self._give_results(answer)

    def _go_on(self) -> None:
        from octet.client import joined

        answer = self._ask(self._turns, self._options)
        self._turns[-1] = joined(self._turns[-1], answer)
        self._give_results(answer)

    def _give_results(self, answer: "Answer") -> None:
        """Asks for what the answer's calls give, until the model has no more of them."""

        while answer.finish_reason == "TOOL_CALLS":
            for call in answer.tool_calls:
                self._turns.append(self._result(call))
            answer = self._ask(self._turns, self._options)
            self._turns.append(answer)

    def _result(self, call: "ToolCall") -> "content_pb2.Message":
        """What a call gave, as it is typed in: pictures, then a line."""
        from octet.client import tool_result

        images: list[str] = []
        for line in _lines(f"result of {call.name}> "):
            name, _, argument = line.partition(" ")
            if name == "/image" and argument:
                images.append(argument.strip())
                continue
            result = line.removeprefix("/") if line.startswith("//") else line
            try:
                return tool_result(call.id, result, images)
            except OSError as error:
                click.echo(f"octet: {error.filename}: {error.strerror}", err=True)
                images = []
        return tool_result(call.id, "", images)


def _lines(prompt: str) -> Iterator[str]:
    """Lines of standard input, without their ends; a person is prompted, and can edit and recall lines."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in iter(sys.stdin.readline, ""))
        return
    with suppress(ImportError):  # on systems that lack it, the terminal edits
        import readline  # noqa: F401  (gives `input` its editing and history)

    with suppress(EOFError):
        while True:
            yield input(prompt).strip()
    click.echo(err=True)
