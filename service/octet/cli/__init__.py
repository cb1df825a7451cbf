"""The command line: one module a command, imported when the command is used.

`octet chat --help` must not wait for torch, nor for gRPC. The commands that ask a server are installed with
the client alone (octet-client), all others with the server (octet-serve).
"""

import importlib
from importlib.util import find_spec

import click

from octet import __version__

_COMMANDS = {
    "bench": "Measure the kernels on this machine, or a running server.",
    "chat": "Ask a server, and print its answer as it streams.",
    "complete": "Have a server's model go on from a prompt as it is.",
    "demo": "Serve the checkpoint that ships with Octet, and ask it three things.",
    "doctor": "Say what is installed, and whether a model would run.",
    "embed": "Ask a server for the vectors of texts.",
    "eval": "Measure what quantization costs a model.",
    "health": "Ask a server whether it serves.",
    "quantize": "Make an FP8-Dynamic checkpoint.",
    "inspect": "Say what is quantized in a checkpoint, how, and who would serve it.",
    "serve": "Serve a model over gRPC.",
}
"""What exists, and its one-line help; module octet.cli.NAME holds the command NAME."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands that are installed."""
        return sorted(filter(_is_installed, _COMMANDS))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported.

        Raises:
            click.ClickException: when it comes with the server, which is not installed.
        """
        if cmd_name not in _COMMANDS:
            return None
        if not _is_installed(cmd_name):
            raise click.ClickException(
                f"`octet {cmd_name}` comes with the server, and only the client is installed: "
                "install octet-serve"
            )
        command: click.Command = getattr(importlib.import_module(f"octet.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in self.list_commands(ctx)])
        missing = sorted(_COMMANDS.keys() - self.list_commands(ctx))
        if missing:
            with formatter.section("Not installed, for they come with the server (octet-serve)"):
                formatter.write_text(", ".join(missing))


def _is_installed(name: str) -> bool:
    return find_spec(f"octet.cli.{name}") is not None


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="octet")
def octet() -> None:
    """Serve FP8-Dynamic multimodal models over streaming gRPC, and talk to them."""
