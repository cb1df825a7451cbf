"""The server's flags, grouped by subject as in `octet.config`."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click
from click.decorators import FC

from octet.config import ServerConfig

_DEFAULTS = {field.name: field.default for field in fields(ServerConfig)}


def _option(name: str, help_text: str, **attributes: Any) -> Callable[[FC], FC]:
    """An option whose default is ServerConfig's."""
    default = _DEFAULTS[name.removeprefix("--").replace("-", "_")]
    return click.option(name, help=help_text, default=default, show_default=True, **attributes)


LISTENER = (
    _option("--host", "Address to listen on."),
    _option("--port", "Port to listen on; 0 takes a free one.", type=int),
    _option("--max-message-bytes", "Longest gRPC message taken.", type=int),
    click.option(
        "--no-reflection",
        "reflection",
        flag_value=False,
        default=True,
        help="Do not answer grpc.reflection.",
    ),
)

IDENTITY = (
    click.option(
        "--api-key",
        envvar="OCTET_API_KEY",
        show_envvar=True,
        help="Key that every call but health checks must carry, as `authorization: Bearer KEY`. The "
        "environment keeps it out of the process list.",
    ),
    click.option(
        "--api-keys-file",
        metavar="FILE",
        help="Keys with names and limits, a line each: NAME KEY [max_concurrent_requests=N]. KEY may be "
        "sha256: and the key's hash. Read again when it changes.",
    ),
    click.option(
        "--api-keys",
        envvar="OCTET_API_KEYS",
        show_envvar=True,
        metavar="LINES",
        help="Such lines themselves, meant for the environment.",
    ),
    click.option(
        "--allow-insecure",
        is_flag=True,
        help="Permit an address that other machines reach without any API key.",
    ),
)

IMAGES = (
    _option("--max-image-bytes", "Longest encoded picture taken.", type=int),
    _option("--max-image-pixels", "Largest picture taken, width times height.", type=int),
    _option("--image-threads", "Pictures decoded at the same time.", type=int),
    click.option(
        "--image-host",
        "image_hosts",
        multiple=True,
        metavar="HOST",
        help="Host that pictures named by https: URI are fetched from; repeatable. Default: none is fetched.",
    ),
    _option("--image-fetch-seconds", "How long fetching one picture may take.", type=float),
)

LIFECYCLE = (_option("--drain-seconds", "How long running calls may go on after SIGTERM.", type=float),)


def server_options(command: FC) -> FC:
    """Adds the flags of all subjects to a command."""
    for option in reversed((*LISTENER, *IDENTITY, *IMAGES, *LIFECYCLE)):
        command = option(command)
    return command
