"""How commands reach a server: their options in common, and what they say when a call fails."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from octet.client import Client, OctetRpcError, Tls

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_EXIT_INTERRUPTED = 130

_OPTIONS = (
    click.option("--target", default="127.0.0.1:50051", show_default=True, help="The server's HOST:PORT."),
    click.option("--tls", is_flag=True, help="Encrypt, trusting the usual authorities."),
    click.option("--ca", type=FILE, metavar="FILE", help="Encrypt, trusting this authority (PEM)."),
    click.option("--certificate", type=FILE, metavar="FILE", help="This client's own certificate (PEM)."),
    click.option("--key", type=FILE, metavar="FILE", help="The private key of --certificate (PEM)."),
    click.option("--api-key", envvar="OCTET_API_KEY", show_envvar=True, help="The server's key."),
    click.option("--model", help="A served model's name.  [default: the server's first]"),
    click.option("--timeout", type=float, help="Seconds until the call is given up.  [default: 600]"),
)

_SAMPLING = (
    click.option("--max-tokens", type=int, help="Most tokens of the answer."),
    click.option("--temperature", type=float, help="0 is greedy.  [default: the model's]"),
    click.option("--seed", type=int, help="Makes sampling reproducible."),
)


def connection_options(command: F) -> F:
    """Adds the options that say which server to ask, and how."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def sampling_options(command: F) -> F:
    """Adds the options that say how tokens are chosen."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def check_images(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuses what is no picture's file or URI."""
    for image in value:
        if not image.startswith(("data:", "https:")) and not Path(image).is_file():
            raise click.BadParameter(f"{image} is neither a file nor a data: or https: URI")
    return value


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Those options that say something: zero does, an empty tuple or list does not."""
    return {name: value for name, value in options.items() if value not in (None, (), [])}


def encryption(*, tls: bool, ca: Path | None, certificate: Path | None, key: Path | None) -> "Tls | None":
    """How a connection is encrypted, by the options; None where none of them asks for it.

    Raises:
        ValueError: they do not go together, or a file cannot be read.
    """
    from octet.client import Tls

    return Tls(ca, certificate, key) if tls or ca or certificate or key else None


@contextmanager
def interruptible() -> Iterator[None]:
    """An interruption is a line on standard error and an exit status."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("octet: interrupted", err=True)
        sys.exit(_EXIT_INTERRUPTED)


@contextmanager
def connected(
    target: str,
    *,
    api_key: str | None,
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
) -> Iterator["Client"]:
    """A client; what goes wrong with it and its calls is a line on standard error and an exit status."""
    # What goes wrong is told in a line of our own.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from octet.client import Client, OctetRpcError

    with interruptible():
        try:
            encrypted = encryption(tls=tls, ca=ca, certificate=certificate, key=key)
            with Client(target, api_key=api_key, tls=encrypted) as client:
                yield client
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error)) from None
        except OctetRpcError as error:
            _report(error, target)


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
    if error.reason == "SERVICE_NOT_OFFERED":
        click.echo(
            "octet: `octet chat`, `octet complete` and `octet embed` ask models that are for that", err=True
        )
    sys.exit(1)
