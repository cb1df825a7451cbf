"""`octet serve`: serve a model over gRPC."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click
from click.decorators import FC

from octet.config import ServerConfig
from octet.errors import OctetError

if TYPE_CHECKING:
    from octet.engine.protocol import Engine
    from octet.engine.vllm.args import EngineSettings

_DEFAULTS = {field.name: field.default for field in fields(ServerConfig)}

DEMO_NAME = "octet-demo"

# Compiling would take longer than all that a demo asks; few sequences at once need little memory.
_DEMO_FLAGS = (
    *("--served-model-name", DEMO_NAME, "--enforce-eager"),
    *("--max-num-seqs", "16", "--kv-cache-memory-bytes", "256M"),
)

_EPILOG = """\b
The flags of vLLM's engine work as with `vllm serve`, for example:
  octet serve BCCard/gemma-3-12b-it-FP8-Dynamic --tensor-parallel-size 4 \\
    --gpu-memory-utilization 0.9 --max-model-len 8192 --enforce-eager \\
    --api-key KEY --served-model-name gemma-3-12b-it
`octet serve --help-engine` lists them all."""


def _option(name: str, help_text: str, **attributes: Any) -> Callable[[FC], FC]:
    """An option whose default is ServerConfig's."""
    default = _DEFAULTS[name.removeprefix("--").replace("-", "_")]
    return click.option(name, help=help_text, default=default, show_default=True, **attributes)


@click.command(epilog=_EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED, metavar="[MODEL] [ENGINE FLAGS]...")
@_option("--host", "Address to listen on.")
@_option("--port", "Port to listen on; 0 takes a free one.", type=int)
@click.option(
    "--api-key",
    envvar="OCTET_API_KEY",
    show_envvar=True,
    help="Key that every call but health checks must carry, as `authorization: Bearer KEY`. The environment "
    "keeps it out of the process list.",
)
@click.option(
    "--allow-insecure", is_flag=True, help="Permit an address that other machines reach without --api-key."
)
@_option("--max-message-bytes", "Longest gRPC message taken.", type=int)
@_option("--max-image-bytes", "Longest encoded picture taken.", type=int)
@_option("--max-image-pixels", "Largest picture taken, width times height.", type=int)
@_option("--image-threads", "Pictures decoded at the same time.", type=int)
@click.option(
    "--image-host",
    "image_hosts",
    multiple=True,
    metavar="HOST",
    help="Host that pictures named by https: URI are fetched from; repeatable. Default: none are fetched.",
)
@_option("--image-fetch-seconds", "How long fetching one picture may take.", type=float)
@_option("--drain-seconds", "How long running calls may go on after SIGTERM.", type=float)
@click.option(
    "--no-reflection", "reflection", flag_value=False, default=True, help="Do not answer grpc.reflection."
)
@click.option("--help-engine", is_flag=True, help="List the flags of vLLM's engine and exit.")
def serve(engine_args: tuple[str, ...], help_engine: bool, **settings: Any) -> None:
    """Serve MODEL, a hub id or a directory, over gRPC; without it, the checkpoint that ships with Octet."""
    if help_engine:
        _print_engine_help()
        return
    try:
        config = ServerConfig(**settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    serve_vllm(config, list(engine_args))


def serve_vllm(config: ServerConfig, engine_args: list[str]) -> None:
    """Serves vLLM's engine until a signal."""

    async def start_engine() -> "Engine":
        from octet.engine.vllm.engine import create_engine

        return await create_engine(await asyncio.to_thread(_parse, engine_args))

    serve_engine(config, start_engine)


def serve_engine(config: ServerConfig, start_engine: Callable[[], Awaitable["Engine"]]) -> None:
    """Serves until a signal; what prevents or ends that is one line on standard error and exit status 1."""
    from octet.server.lifecycle import run
    from octet.server.logs import configure_logging

    configure_logging()
    try:
        asyncio.run(run(config, start_engine))
    except OctetError as error:
        click.echo(f"octet: error: {error}", err=True)
        sys.exit(1)


def _parse(engine_args: list[str]) -> "EngineSettings":
    """The engine's settings, those of the demo checkpoint where no model is named. Imports vLLM."""
    from octet import demo
    from octet.engine.vllm.args import names_model, parse_engine_args

    if not names_model(engine_args):
        engine_args = [str(demo.PATH), *_DEMO_FLAGS, *engine_args]
    return parse_engine_args(engine_args)


def _print_engine_help() -> None:
    from octet.engine.vllm.args import engine_help

    click.echo(engine_help())
