"""Throughput and first text against streams, prompt length, pictures and replicas.

    python -m bench.curves [--turns N] [--only PART...] [--json FILE] [--plots FOLDER] [-- ENGINE FLAGS]

Starts `octet serve` once for the first three, and three replicas behind Envoy for the last.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.curves import sweeps
from bench.curves.plot import latency, save, tokens_per_s
from bench.curves.sweeps import Curve
from bench.versions import versions
from octet import demo
from octet.bench import machine
from octet.bench.serving.figures import Turns

PARTS = ("server", "replicas")


def demo_flags(streams: int) -> list[str]:
    """The demo checkpoint, with room for so many at once, and for all that one replica may be asked."""
    return [
        *(str(demo.PATH), "--enforce-eager", "--kv-cache-memory-bytes", "512M"),
        *("--max-num-seqs", str(max(streams, sweeps.REPLICAS_STREAMS))),
    ]


def table(curve: dict[str, Any]) -> Table:
    """A curve's points, as JSON has them: medians of the turns."""
    rendered = Table(box=box.MARKDOWN)
    for title in (curve["axis"], "tokens/s", "first text p50, ms", "p99", "step, ms", "failed"):
        rendered.add_column(title, justify="right")
    for point in curve["points"]:
        figures = (
            tokens_per_s,
            latency("first_text", "p50"),
            latency("first_text", "p99"),
            latency("gap", "p50"),
        )
        cells = [f"{Turns.of(map(figure, point['turns'])).middle:.4g}" for figure in figures]
        requests = [sum(turn["statuses"].values()) for turn in point["turns"]]
        failed = sum(requests) - sum(turn["statuses"].get("OK", 0) for turn in point["turns"])
        rendered.add_row(str(point["x"]), *cells, str(failed))
    return rendered


async def measure(flags: Sequence[str], only: Sequence[str], turns: int, streams: int) -> list[Curve]:
    """All curves that are asked for."""
    curves: list[Curve] = []
    if "server" in only:
        curves += await sweeps.of_one_server(flags, turns, streams)
    if "replicas" in only:
        curves += await sweeps.of_replicas(flags, turns)
    return curves


def main() -> None:
    """Measures, prints tables, and writes and draws what the command line says."""
    parser = argparse.ArgumentParser(description="Measure how a server bends.")
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--most-streams", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    parser.add_argument("--plots", type=Path, help="draw each curve into this folder")
    parser.add_argument(
        "flags", nargs="*", help="MODEL and flags of the engine; default: the demo checkpoint"
    )
    arguments = parser.parse_args()
    flags = arguments.flags or demo_flags(arguments.most_streams)
    # So that a time limit ends the servers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    curves = asyncio.run(measure(flags, arguments.only, arguments.turns, arguments.most_streams))
    described = machine.describe("cpu")
    points = [curve.as_json() for curve in curves]
    console = Console(width=160, markup=False, highlight=False)
    console.print(machine.summary(described))
    for curve in points:
        console.print(curve["fixed"])
        console.print(table(curve))
        if arguments.plots is not None:
            arguments.plots.mkdir(parents=True, exist_ok=True)
            save(curve, machine.host_summary(described), arguments.plots / f"{curve['name']}.png")
    if arguments.json_file is not None:
        written = {"machine": described, "versions": versions(), "flags": flags, "curves": points}
        arguments.json_file.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
