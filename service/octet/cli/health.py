"""`octet health`: ask a server whether it serves, for container health checks and scripts."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from grpc_health.v1 import health_pb2

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_EPILOG = """\b
Exit status: 0 it serves, 1 it does not, or cannot be reached, 2 wrong usage."""


@click.command(epilog=_EPILOG)
@click.option(
    "--target",
    default="127.0.0.1:50051",
    envvar="OCTET_HEALTH_TARGET",
    show_default=True,
    show_envvar=True,
    help="The server's HOST:PORT, or unix:PATH.",
)
@click.option("--service", default="", help="A service to ask about.  [default: the whole server]")
@click.option("--tls", is_flag=True, help="Encrypt, trusting the usual authorities.")
@click.option(
    "--ca",
    type=_FILE,
    metavar="FILE",
    envvar="OCTET_HEALTH_CA",
    show_envvar=True,
    help="Encrypt, trusting this authority (PEM).",
)
@click.option("--certificate", type=_FILE, metavar="FILE", help="This client's own certificate (PEM).")
@click.option("--key", type=_FILE, metavar="FILE", help="The private key of --certificate (PEM).")
@click.option(
    "--server-name", metavar="NAME", help="The name in the server's certificate, if not the target's."
)
@click.option("--timeout", type=float, default=3.0, show_default=True, help="Seconds until it is given up.")
def health(
    target: str,
    service: str,
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    server_name: str | None,
    timeout: float,
) -> None:
    """Ask a server whether it serves: it is up, its engine is warm, and it is not shutting down.

    Speaks grpc.health.v1, needs no API key, and prints the answer, such as SERVING.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from octet.client.connection import Tls

    try:
        encryption = None
        if tls or ca or certificate or key or server_name:
            encryption = Tls(ca=ca, certificate=certificate, key=key, server_name=server_name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    options = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    if encryption is None:
        channel = grpc.insecure_channel(target, options)
    else:
        channel = grpc.secure_channel(target, encryption.credentials(), options)
    stub = health_pb2_grpc.HealthStub(channel)
    with channel:
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
            if service and answer.status != health_pb2.HealthCheckResponse.SERVING:
                _tell_others(stub.List(health_pb2.HealthListRequest(), timeout=timeout).statuses, service)
        except grpc.RpcError as error:
            click.echo(f"octet: error: {target}: {error.code().name}: {error.details()}", err=True)
            sys.exit(1)
    click.echo(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    sys.exit(0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1)


def _tell_others(statuses: "Mapping[str, health_pb2.HealthCheckResponse]", service: str) -> None:
    """Says which services serve where one does not: the model may be for something else."""
    serving = [name for name, answer in statuses.items() if name and answer.status == 1]
    if serving:
        click.echo(f"octet: {service} does not serve; {', '.join(sorted(serving))} do", err=True)
