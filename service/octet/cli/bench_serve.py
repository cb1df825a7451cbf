"""`octet bench serve`: put load on a running server, and say what it answers with."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from octet.cli.bench_files import check_files, json_option, plot_option, write_json
from octet.cli.connecting import FILE, connection_options, encryption, interruptible

if TYPE_CHECKING:
    from octet.bench.serving.run import Level, Settings
    from octet.bench.serving.target import Target

T = TypeVar("T")

_DEFAULT_TIMEOUT = 600.0

_EPILOG = """\b
LENGTH is a number of tokens, uniform:LEAST,MOST or lognormal:MEDIAN,SIGMA,MOST (the
logarithm of lengths is normal with the deviation SIGMA; none is above MOST). Prompt
lengths are of the text; pictures and tools come on top.
\b
A trace is a file of JSON lines, one for each request:
  {"arrival_s": 0.25, "prompt_tokens": 512, "answer_tokens": 128, "kind": "text"}
kind (text, picture or tools) may be left out. Others' traces are mapped with jq, such
as Mooncake's: jq -c '{arrival_s: (.timestamp / 1000), prompt_tokens: .input_length,
answer_tokens: .output_length}'
\b
Goodput counts requests that were answered within all limits: ttft (first token), text
(first text), tpot (a token after the first, on average), gap (between two pieces, the
longest), total. Without --may-end answers are as long as asked for: servers are sent
ignore_eos, which vLLM and Octet know.
\b
Exit status: 0 measured, 1 no answer or more failures than allowed, 2 wrong usage,
130 interrupted."""


def _list_of(kind: Callable[[str], T], what: str) -> Callable[..., tuple[T, ...]]:
    """Reads an option's value as a comma-separated list."""

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[T, ...]:
        if value is None:
            return ()
        try:
            return tuple(kind(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r} is no list of {what}") from None

    return read


def _streams(text: str) -> int:
    if (streams := int(text)) < 1:
        raise ValueError
    return streams


def _rate(text: str) -> float:
    if not 0 < (rate := float(text)) < float("inf"):
        raise ValueError
    return rate


_LOAD = (
    click.option(
        "--streams",
        metavar="N,N...",
        callback=_list_of(_streams, "numbers from 1 on"),
        help="Closed loops: so many requests at once, a load for each number.  [default: 1,8,32]",
    ),
    click.option(
        "--rate",
        "rates",
        metavar="R,R...",
        callback=_list_of(_rate, "rates above 0"),
        help="Open loops: requests arrive at random (Poisson), so many a second, whether or not others have "
        "been answered; times count from the arrival.",
    ),
    click.option("--trace", type=FILE, help="An open loop: requests arrive as this file says."),
    click.option(
        "--requests",
        type=click.IntRange(min=1),
        help="Of each closed loop.  [default: 4 a stream, at least 16]",
    ),
    click.option(
        "--seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        help="How long requests arrive in each open loop.",
    ),
    click.option(
        "--turns",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="How often all loads are put on; the tables have medians, and how far turns are apart.",
    ),
    click.option(
        "--warm-up",
        type=click.IntRange(min=0),
        default=4,
        show_default=True,
        help="Requests before, that do not count.",
    ),
    click.option(
        "--connections",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="gRPC connections that requests take turns over.",
    ),
)

_REQUESTS = (
    click.option(
        "--mix",
        default="text=1",
        show_default=True,
        metavar="KIND=SHARE,...",
        help="What is asked: shares of text, picture and tools.",
    ),
    click.option(
        "--prompt-tokens", default="128", show_default=True, metavar="LENGTH", help="Lengths of prompts."
    ),
    click.option(
        "--answer-tokens", default="128", show_default=True, metavar="LENGTH", help="Lengths of answers."
    ),
    click.option("--may-end", is_flag=True, help="Let the model end answers before they are so long."),
    click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy."),
    click.option(
        "--pictures",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="In each request of the kind picture.",
    ),
    click.option(
        "--picture-side",
        type=click.IntRange(min=16),
        default=896,
        show_default=True,
        help="Their width and height in pixels.",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Decides on arrivals, kinds, lengths, words and pictures.",
    ),
)

_REPORT = (
    click.option("--goodput", metavar="NAME=TIME,...", help="Limits, such as ttft=200ms,tpot=50ms."),
    click.option(
        "--allow-failures",
        type=click.FloatRange(0, 1),
        default=0.0,
        show_default=True,
        metavar="SHARE",
        help="Share of a load's requests that may fail before the exit status says so.",
    ),
    json_option,
    plot_option("throughput and latency over the loads"),
)


def _load_options(command: Any) -> Any:
    for option in reversed((*_LOAD, *_REQUESTS, *_REPORT)):
        command = option(command)
    return command


@click.command(epilog=_EPILOG)
@connection_options
@click.option(
    "--openai",
    metavar="URL",
    help="Ask a server of OpenAI's API instead; URL ends with /v1. Its key: --api-key or OPENAI_API_KEY.",
)
@click.option(
    "--vllm-grpc",
    metavar="HOST:PORT",
    help="Ask a server of vllm.grpc.engine.VllmEngine instead, in token ids. Needs octet-serve[smg].",
)
@_load_options
@click.pass_context
def serve(
    context: click.Context,
    /,
    json_file: Path | None,
    plot_file: Path | None,
    allow_failures: float,
    **options: Any,
) -> None:
    """Put load on a running server, and say what it answers with: throughput, latency, goodput.

    Failures are counted by their status, and nothing is repeated.
    """
    check_files(json_file, plot_file)
    given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    # What goes wrong is counted, and told in lines of our own.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    settings = _settings(options, given)
    target_of = _target(options, given, settings)
    with interruptible():
        failed = asyncio.run(_measure(target_of, settings, json_file, plot_file))
    if failed > allow_failures:
        click.echo(f"octet: error: {failed:.1%} of a load's requests failed", err=True)
        sys.exit(1)


def _settings(options: dict[str, Any], given: set[str]) -> "Settings":
    """What is to be measured; click.UsageError names what makes no sense."""
    from octet.bench.serving import lengths
    from octet.bench.serving.figures import Objective
    from octet.bench.serving.orders import parse_mix
    from octet.bench.serving.run import Settings
    from octet.bench.serving.target import Form

    settings = Settings(
        levels=_levels(options, given),
        turns=options["turns"],
        mix=_read(options, "mix", parse_mix),
        prompt=_read(options, "prompt_tokens", lengths.parse),
        answer=_read(options, "answer_tokens", lengths.parse),
        requests=options["requests"],
        seconds=options["seconds"],
        warm_up=options["warm_up"],
        seed=options["seed"],
        form=Form(
            temperature=options["temperature"],
            may_end=options["may_end"],
            pictures=options["pictures"],
            picture_side=options["picture_side"],
        ),
        objective=_read(options, "goodput", Objective.parse) if options["goodput"] else None,
    )
    for level in settings.levels:
        if not settings.orders(level):
            raise click.UsageError(f"{level}: nothing arrives in {settings.seconds:g} s; give more --seconds")
    return settings


def _read(options: dict[str, Any], name: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(options[name])
    except ValueError as error:
        raise click.UsageError(f"--{name.replace('_', '-')}: {error}") from None


def _levels(options: dict[str, Any], given: set[str]) -> "list[Level]":
    from octet.bench.serving.arrivals import read_trace
    from octet.bench.serving.run import Closed, Open, Trace

    if options["trace"] is not None:
        _refuse(given, "--trace", "says it", "streams", "rates", "requests", "seconds", "mix")
        _refuse(given, "--trace", "says it", "prompt_tokens", "answer_tokens")
        try:
            return [Trace(tuple(read_trace(options["trace"])))]
        except (OSError, ValueError) as error:
            raise click.UsageError(f"--trace: {error}") from None
    if options["rates"] and not options["streams"]:
        _refuse(given, "--rate", "asks for no closed loop", "requests")
    elif not options["rates"]:
        _refuse(given, "a closed loop", "ends after its requests", "seconds")
    streams = options["streams"] or (() if options["rates"] else (1, 8, 32))
    return [*map(Closed, streams), *map(Open, options["rates"])]


def _refuse(given: set[str], what: str, why: str, *names: str) -> None:
    for name in names:
        if name in given:
            option = {"rates": "rate"}.get(name, name).replace("_", "-")
            raise click.UsageError(f"--{option}: {what} {why}")


def _target(options: dict[str, Any], given: set[str], settings: "Settings") -> "Callable[[], Target]":
    """Makes what is asked, on the running loop; click.UsageError names what it cannot be asked or told."""
    from octet.bench.serving.orders import Kind

    chosen = [name for name in ("target", "openai", "vllm_grpc") if name in given]
    if len(chosen) > 1:
        named = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise click.UsageError(f"{named} name different servers: give one")
    timeout = _DEFAULT_TIMEOUT if options["timeout"] is None else options["timeout"]
    if not timeout > 0:
        raise click.UsageError(f"--timeout: {timeout:g} is not more than 0")
    try:
        tls = encryption(**{name: options[name] for name in ("tls", "ca", "certificate", "key")})
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if options["openai"]:
        return _openai(options, given, timeout)
    common = {
        "api_key": options["api_key"],
        "tls": tls,
        "timeout": timeout,
        "connections": options["connections"],
    }
    if options["vllm_grpc"]:
        if "model" in given:
            raise click.UsageError("--model: VllmEngine serves one model, and has no name for it")
        asked = {order.kind for level in settings.levels for order in settings.orders(level)}
        if asked - {Kind.TEXT}:
            raise click.UsageError("--vllm-grpc takes token ids: it can be asked for text alone")
        return _vllm(options["vllm_grpc"], common)
    from octet.bench.serving.octet_grpc import OctetTarget

    return lambda: OctetTarget(options["target"], model=options["model"] or "", **common)


def _vllm(target: str, common: dict[str, Any]) -> "Callable[[], Target]":
    try:
        from octet.bench.serving.vllm_grpc import VllmTarget
    except ImportError:
        raise click.ClickException(
            "--vllm-grpc needs smg-grpc-servicer; run `pip install 'octet-serve[smg]'`"
        ) from None
    return lambda: VllmTarget(target, **common)


def _openai(options: dict[str, Any], given: set[str], timeout: float) -> "Callable[[], Target]":
    import ssl

    url = options["openai"]
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--openai: {url} is no URL such as http://127.0.0.1:8000/v1")
    _refuse(given, "--openai", "has a connection for each request", "connections")
    _refuse(given, "--openai", "encrypts where the URL says https:", "tls")
    context = None
    if options["ca"] or options["certificate"]:
        if url.startswith("http://"):
            _refuse(given, "--openai", "does not encrypt with http:", "ca", "certificate")
        try:
            context = ssl.create_default_context(cafile=options["ca"])
            if options["certificate"]:
                context.load_cert_chain(options["certificate"], options["key"])
        except OSError as error:
            raise click.UsageError(f"TLS: {error}") from None
    from octet.bench.serving.openai_http import OpenAiTarget

    # Octet's key in the environment is nobody else's business.
    api_key = options["api_key"] if "api_key" in given else os.environ.get("OPENAI_API_KEY")
    return lambda: OpenAiTarget(
        url, api_key=api_key, tls=context, model=options["model"] or "", timeout=timeout
    )


async def _measure(
    target_of: "Callable[[], Target]", settings: "Settings", json_file: Path | None, plot_file: Path | None
) -> float:
    """Measures and reports; gives the largest share of a load that failed."""
    from octet.bench.serving import report
    from octet.bench.serving.run import failed_share, run
    from octet.bench.serving.target import Failure
    from octet.bench.serving.watch import watching
    from octet.cli.tables import console

    try:
        target = target_of()
    except OSError as error:
        raise click.UsageError(str(error)) from None
    try:
        with watching() as watch:
            measured = await run(target, settings, watch)
    except Failure as failure:
        raise click.ClickException(f"{target.title} does not answer: {failure}") from None
    finally:
        await target.close()
    report.print_report(console(), target.title, settings, measured)
    write_json(report.as_json(target.title, settings, measured), json_file)
    if plot_file is not None:
        from octet.bench.serving import plot

        plot.save(target.title, measured, plot_file)
    return failed_share(measured)
