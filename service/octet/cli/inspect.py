"""`octet inspect`: say what is quantized in a checkpoint, how, and who would serve it."""

import json
import sys
from typing import TYPE_CHECKING

import click

from octet.cli.tables import console
from octet.errors import OctetError
from octet.sizes import in_words

if TYPE_CHECKING:
    from octet.inspection import Inspection, Kind, Service


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
def inspect(model: str, as_json: bool) -> None:
    """Say what is quantized in MODEL and how, and on which devices it would be served, by which kernels.

    MODEL is a directory, or a hub id in the local cache. Only the headers of its files are read. Exits with 1
    when the files contradict each other or no device would serve it.
    """
    from octet.engine.vllm.launch.logs import quiet
    from octet.inspection import inspect as examine
    from octet.inspection import services

    try:
        with quiet():
            inspection = examine(model)
            if not as_json:
                _print_contents(inspection)
            found = services(inspection)
    except OctetError as error:
        click.echo(f"octet: error: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(inspection.as_json(found), indent=2))
    else:
        _print_services(found)
    sys.exit(0 if not inspection.problems and any(service.served for service in found) else 1)


def _print_contents(inspection: "Inspection") -> None:
    from rich.table import Table

    out = console()
    out.print(f"{inspection.checkpoint.folder}: {_scheme(inspection)}")
    table = Table("modules", "count", "stored as", "parameters", "size", "share", box=None, pad_edge=False)
    for column in table.columns[1:2] + table.columns[3:]:
        column.justify = "right"
    total = inspection.parameters
    for kind in inspection.kinds:
        size = in_words(kind.bytes)
        share = f"{kind.parameters / total:.1%}" if total else "-"
        table.add_row(kind.modules, str(kind.count), _storage(kind), f"{kind.parameters:,}", size, share)
    out.print(table)
    share = f"{inspection.quantized_parameters / total:.1%}" if total else "none"
    out.print(f"{total:,} parameters, {share} of them quantized, in {in_words(inspection.bytes)}")
    for problem in inspection.problems:
        out.print(f"problem: {problem}", style="red")


def _print_services(services: "list[Service]") -> None:
    for service in services:
        where = f"{service.device}{' (this machine)' if service.here else ''}"
        click.echo(f"{where}: {'served' if service.served else 'not served'}: {service.detail}")


def _scheme(inspection: "Inspection") -> str:
    names = ", ".join(inspection.checkpoint.architectures) or "of no named architecture"
    scheme = inspection.checkpoint.quantization
    if scheme is None:
        return f"{names}, not quantized"
    text = f"{names}, {scheme.scheme} ({inspection.checkpoint.quant_method})"
    if scheme.weight_format and scheme.activation_format:
        text += f", weights {scheme.weight_format}, activations {scheme.activation_format}"
    if inspection.checkpoint.quantizes_vocabulary:
        text += ", the output layer too"
    return text


def _storage(kind: "Kind") -> str:
    return f"{kind.dtype}, scales {kind.scales}" if kind.quantized else kind.dtype
