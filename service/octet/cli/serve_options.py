"""The server's flags, grouped by subject as in `octet.config`."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click
from click.decorators import FC

from octet.config import ServerConfig
from octet.config.telemetry import LOG_FORMATS, LOG_LEVELS

_DEFAULTS = {field.name: field.default for field in fields(ServerConfig)}


def _option(name: str, help_text: str, **attributes: Any) -> Callable[[FC], FC]:
    """An option whose default is ServerConfig's."""
    default = _DEFAULTS[name.removeprefix("--").replace("-", "_")]
    return click.option(name, help=help_text, default=default, show_default=True, **attributes)


class _Octal(click.ParamType[int]):
    """Permissions as `chmod` takes them."""

    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number that the digits mean."""
        try:
            return int(value, 8)
        except ValueError:
            self.fail(f"{value!r} is not a number in octal, such as 660", param, ctx)


LISTENER = (
    _option("--host", "Address to listen on."),
    _option("--port", "Port to listen on; 0 takes a free one.", type=int),
    click.option("--uds", metavar="PATH", help="Unix socket to listen on as well, always in plain text."),
    click.option(
        "--uds-mode",
        type=_Octal(),
        default=f"{_DEFAULTS['uds_mode']:o}",
        show_default=True,
        metavar="MODE",
        help="Permissions of the Unix socket, in octal.",
    ),
    click.option(
        "--no-tcp",
        "tcp",
        flag_value=False,
        default=True,
        help="Listen on the Unix socket only.",
    ),
    _option("--max-message-bytes", "Longest gRPC message taken.", type=int),
    _option("--max-metadata-bytes", "Longest metadata taken with a call.", type=int),
    _option("--max-concurrent-streams", "Calls at the same time over one connection.", type=int),
    _option("--window-bytes", "HTTP/2 window of a call; 0: what gRPC measures to be best.", type=int),
    _option("--keepalive-seconds", "Silence after which a client is pinged.", type=float),
    _option("--keepalive-timeout-seconds", "How long the answer to a ping may take.", type=float),
    _option("--min-ping-interval-seconds", "How often clients may ping.", type=float),
    _option(
        "--max-connection-age-seconds",
        "Age, 10 % more or less, at which clients are asked to connect anew; 0: never.",
        type=float,
    ),
    _option(
        "--max-connection-age-grace-seconds",
        "How long calls on the old connection may go on after that.",
        type=float,
    ),
    _option(
        "--write-timeout-seconds",
        "How long a client may leave a part of a streamed answer untaken.",
        type=float,
    ),
    click.option(
        "--no-reflection",
        "reflection",
        flag_value=False,
        default=True,
        help="Do not answer grpc.reflection.",
    ),
    click.option("--channelz", is_flag=True, help="Answer grpc.channelz."),
    click.option(
        "--smg",
        is_flag=True,
        help="Be a worker of SMG gateways, too: answer vllm.grpc.engine.VllmEngine. Needs octet-serve[smg].",
    ),
    click.option(
        "--kserve",
        is_flag=True,
        help="Answer the clients of KServe and Triton, too: inference.GRPCInferenceService.",
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
        "--admin-keys-file",
        metavar="FILE",
        help="Keys of those who may load and drop LoRA adapters while the server runs "
        "(octet.v1.AdminService), a line each: NAME KEY. Read again when it changes. Needs --adapter-root "
        "and --enable-lora.",
    ),
    click.option(
        "--adapter-root",
        metavar="DIRECTORY",
        help="Directory below which such adapters lie.",
    ),
    click.option(
        "--tls-certificate",
        metavar="FILE",
        help="Serve with TLS, with this PEM file's certificate chain. This and the next two files are read "
        "again when they change.",
    ),
    click.option("--tls-key", metavar="FILE", help="PEM file of the certificate's private key."),
    click.option(
        "--tls-client-ca",
        metavar="FILE",
        help="Ask every client for a certificate, issued by one of this PEM file's authorities.",
    ),
    click.option(
        "--allow-insecure",
        is_flag=True,
        help="Permit an address that other machines reach without asking callers for a key or a certificate.",
    ),
)

ADMISSION = (
    _option(
        "--max-running-requests",
        "Requests that the engine is given at the same time; a request for n candidates counts n. Default: "
        "vLLM's --max-num-seqs and an eighth more.",
        type=int,
    ),
    _option(
        "--max-running-requests-per-key",
        "As many of one key's. Default: --max-num-seqs less an eighth, so that there is a place for another "
        "key's; no limit on a server without a file of keys, OCTET_API_KEYS or client certificates.",
        type=int,
    ),
    _option(
        "--max-waiting-requests",
        "Requests that wait for their turn; more are refused. Default: a quarter of what may run.",
        type=int,
    ),
    _option(
        "--max-waiting-tokens",
        "Tokens of the prompts that wait, estimated at 4 bytes each. Default: 8 context windows.",
        type=int,
    ),
    _option("--max-waiting-images", "Pictures not decoded yet, of all requests together.", type=int),
    _option(
        "--max-token-calls", "CountTokens, Tokenize and Detokenize calls, answered or waiting.", type=int
    ),
)

IMAGES = (
    _option("--max-image-bytes", "Longest encoded picture taken.", type=int),
    _option("--max-image-pixels", "Largest picture taken, width times height.", type=int),
    _option(
        "--image-threads",
        "Pictures of one caller decoded at the same time, each in a process of its own; there is one "
        "process more, for others.",
        type=int,
    ),
    _option("--image-decode-seconds", "Processor time that decoding one picture may take.", type=float),
    _option(
        "--max-image-memory",
        "Bytes of memory that decoding pictures may take, and decoded ones that the engine does not have "
        "yet; requests wait for it. Default: a 25th of the machine's, or of the control group's limit if "
        "that is less; at least 256 MiB.",
        type=int,
    ),
    _option(
        "--max-image-memory-per-key",
        "Bytes of it that one caller may take. Default: half, at least 256 MiB.",
        type=int,
    ),
    _option(
        "--max-image-memory-per-request",
        "Bytes of it that one request may take; what needs more is refused. Default: all that one caller "
        "may.",
        type=int,
    ),
    click.option(
        "--image-host",
        "image_hosts",
        multiple=True,
        metavar="HOST",
        help="Host that pictures named by https: URI are fetched from; repeatable. Default: none is fetched.",
    ),
    _option("--image-fetch-seconds", "How long fetching one picture may take.", type=float),
)

LIFECYCLE = (
    _option(
        "--grace-seconds",
        "How long calls are still taken after SIGTERM, while health says NOT_SERVING already.",
        type=float,
    ),
    _option("--drain-seconds", "How long running calls may go on after that.", type=float),
)

TELEMETRY = (
    click.option(
        "--metrics-port",
        type=int,
        default=None,
        help="Port that Prometheus scrapes and probes ask (/health); 0 takes a free one. Default: none.",
    ),
    _option("--metrics-host", "Address of the port that Prometheus scrapes."),
    click.option(
        "--otlp-traces-endpoint",
        default=None,
        metavar="URL",
        help="Where traces are sent by OTLP, such as http://collector:4317; the engine's go there, too. "
        "Default: what OpenTelemetry's OTEL_EXPORTER_OTLP_* variables say.",
    ),
    click.option(
        "--no-load-reports",
        "load_reports",
        flag_value=False,
        default=True,
        help="Do not say in the trailers of chats, for balancers, how busy the server is.",
    ),
    _option("--log-format", "How the log's lines are written.", type=click.Choice(LOG_FORMATS)),
    _option("--log-level", "The least severe level that is logged.", type=click.Choice(LOG_LEVELS)),
    _option(
        "--log-prompts",
        "Log so many characters of each prompt and of each answer; 0 logs neither.",
        type=int,
        metavar="CHARACTERS",
    ),
)


def server_options(command: FC) -> FC:
    """Adds the flags of all subjects to a command."""
    for option in reversed((*LISTENER, *IDENTITY, *ADMISSION, *IMAGES, *LIFECYCLE, *TELEMETRY)):
        command = option(command)
    return command
