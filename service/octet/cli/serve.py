"""`octet serve`: serve a model over gRPC."""

import asyncio
import atexit
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click

from octet.cli.serve_options import server_options
from octet.config import ServerConfig
from octet.errors import OctetError, StartupError

if TYPE_CHECKING:
    from octet.engine.protocol import Engine
    from octet.engine.vllm.launch.args import EngineSettings
    from octet.rpc.vllm_engine import CreateServicer

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
`octet serve --help-engine` lists them all, and Octet's own that concern the model.

On a CPU with up to 4 cores the model computes on all of them, where vLLM by itself would keep one free;
VLLM_CPU_OMP_THREADS_BIND=0,1 chooses cores, VLLM_CPU_OMP_THREADS_BIND=auto is vLLM's own choice."""


@click.command(epilog=_EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED, metavar="[MODEL] [ENGINE FLAGS]...")
@server_options
@click.option(
    "--headless",
    is_flag=True,
    help="Compute for the server of another machine, which --master-addr and --node-rank name; open no port. "
    "--hosts-timeout says how long to wait for it.",
)
@click.option(
    "--help-engine",
    is_flag=True,
    help="List the flags that concern the engine, vLLM's and Octet's, and exit.",
)
def serve(engine_args: tuple[str, ...], headless: bool, help_engine: bool, **settings: Any) -> None:
    """Serve MODEL, a hub id or a directory, over gRPC; without it, the checkpoint that ships with Octet."""
    if help_engine:
        _print_engine_help()
        return
    try:
        config = ServerConfig(**settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if headless:
        compute(config, list(engine_args))
    else:
        serve_vllm(config, list(engine_args))


def compute(config: ServerConfig, engine_args: list[str]) -> None:
    """Computes for another machine's server until a signal, or until that server is gone."""
    from octet.server.logs import logging_to_stderr

    try:
        with logging_to_stderr(config):
            settings = _parse(config, engine_args, headless=True)
            from octet.engine.vllm.launch import headless

            headless.compute(settings)
    except OctetError as error:
        click.echo(f"octet: error: {error}", err=True)
        sys.exit(1)


def serve_vllm(config: ServerConfig, engine_args: list[str]) -> None:
    """Serves vLLM's engine until a signal."""
    # gRPC's core writes a line past the log for each call with malformed metadata, which anybody may send.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    async def start_engine() -> "Engine":
        from octet.engine.vllm.serving.engine import create_engine

        return await create_engine(await asyncio.to_thread(_parse, config, engine_args))

    async def create_servicer(engine: Any) -> Any:
        from octet.engine.vllm.serving import smg

        return await smg.create_servicer(
            engine, max_image_bytes=config.max_image_bytes, image_threads=config.image_threads
        )

    serve_engine(config, start_engine, create_servicer)


def serve_engine(
    config: ServerConfig,
    start_engine: Callable[[], Awaitable["Engine"]],
    create_servicer: "CreateServicer | None" = None,
) -> NoReturn:
    """Serves until a signal, and ends this process.

    What prevents or ends the serving is one line on standard error and exit status 1.

    Args:
        config: the server's settings.
        start_engine: loads the model.
        create_servicer: makes what answers SMG gateways over the engine, with config.smg.
    """
    import uvloop

    from octet.server.lifecycle import run
    from octet.server.logs import logging_to_stderr

    status = 0
    try:
        with logging_to_stderr(config):
            uvloop.run(run(config, start_engine, create_servicer))
    except OctetError as error:
        click.echo(f"octet: error: {error}", err=True)
        status = 1
    _end(status)


def _end(status: int) -> NoReturn:
    """Ends this process, whatever its threads are at.

    To take apart what importing vLLM has made, object by object, as the interpreter would, takes seconds.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parse(config: ServerConfig, engine_args: list[str], *, headless: bool = False) -> "EngineSettings":
    """The engine's settings, those of the demo checkpoint where no model is named. Imports vLLM."""
    from octet import demo
    from octet.engine.vllm.launch import forkserver, parallel
    from octet.engine.vllm.launch.args import check_model, names_model, parse_engine_args
    from octet.engine.vllm.launch.logs import configure_logging
    from octet.telemetry.tracing import find_collector

    check_model(engine_args)
    configure_logging(config.log_format, config.log_level)
    if not headless:
        # Without a server there is no engine core.
        forkserver.server.start(parallel.ranks_named(engine_args))
    if not names_model(engine_args):
        engine_args = [str(demo.PATH), *_DEMO_FLAGS, *engine_args]
    if (collector := find_collector(config.otlp_traces_endpoint, os.environ)) is not None:
        engine_args = [*engine_args, "--otlp-traces-endpoint", collector.endpoint]
    settings = parse_engine_args(engine_args)
    if config.adapter_root is not None and not settings.engine.enable_lora:
        raise StartupError("--adapter-root: adapters need --enable-lora, too")
    return settings


def _print_engine_help() -> None:
    from octet.engine.vllm.launch.args import engine_help

    click.echo(engine_help())
