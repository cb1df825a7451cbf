"""What one caller can do to another's stream, whatever it sends.

    python -m bench.neighbours [--cases parts webp ...] [--seconds S] [--json FILE] [SERVE FLAGS]...
    python -m bench.neighbours --scripted [--cases ...]

Starts `octet serve` with the flags (none: the demo checkpoint), or a server of a scripted engine, which shows
what is the event loop's, and two callers' keys. One caller streams text
all the time and begins a new stream twice a second. The other, a process of less priority, sends what a case
says, for some seconds. For each case: how its calls ended; the time between the chunks of the first caller's
stream (median, 99th percentile, longest) and the longest wait for a new stream's first token, before, during,
and in the 5 s after; the memory of the server's processes before, at most, and 5 s after (the sum of what is
each process's own); tracebacks in the log; and what of a list of ordinary calls is no longer answered then.
The server is the same for all cases: what one breaks, the following ones show.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from rich import box
from rich.console import Console
from rich.table import Table

from bench.neighbours import sender
from bench.neighbours.calls import CHAT, Call, chat, counting, tokenizing
from bench.neighbours.cases import cases, show
from bench.neighbours.memory import Memory
from bench.neighbours.neighbour import KEY, METADATA, Fare, Neighbour
from bench.serving import Server, octet_serve, serving
from octet.bench import machine
from octet.v1 import model_service_pb2, model_service_pb2_grpc, tool_pb2
from tests.pictures import flat_png

BEFORE_SECONDS = 4.0
AFTER_SECONDS = 5.0
_ANSWER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case did.

    Attributes:
        name: the case's.
        ended: the sender's calls by how they ended.
        seconds: until the last of them had.
        before: how the neighbour fared; likewise during and after.
        memory_before: MiB by process; likewise at the peak and after.
        tracebacks: in the log.
        refused: calls of the neighbour's that failed meanwhile.
        broken: ordinary calls that fail afterwards.
    """

    name: str
    ended: dict[str, int]
    seconds: float
    before: Fare
    during: Fare
    after: Fare
    memory_before: dict[str, float]
    memory_peak: dict[str, float]
    memory_after: dict[str, float]
    tracebacks: int
    refused: list[str]
    broken: list[str]


async def measure(server: Server, name: str, window: int, seconds: float) -> Outcome:
    """Runs a case."""
    sending = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.neighbours", "--send", server.target, name),
        *("--window", str(window), "--seconds", str(seconds)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert sending.stdout is not None
    await sending.stdout.readline()
    tracebacks = server.tracebacks
    async with Neighbour(server.target) as neighbour:
        quiet = time.monotonic()
        await asyncio.sleep(BEFORE_SECONDS)
        with Memory(server.process) as memory:
            memory_before = memory.now()
            start = time.monotonic()
            out, _ = await sending.communicate(b"\n")
            end = time.monotonic()
            await asyncio.sleep(AFTER_SECONDS)
            memory_after, peak = memory.now(), memory.peak
        done = time.monotonic()
    return Outcome(
        cases()[name].name,
        json.loads(out),
        end - start,
        neighbour.fare(quiet, start),
        neighbour.fare(start, end),
        neighbour.fare(end, done),
        memory_before,
        peak,
        memory_after,
        server.tracebacks - tracebacks,
        neighbour.refused,
        await broken(server.target),
    )


async def broken(target: str) -> list[str]:
    """Ordinary calls of the neighbour's that are not answered."""
    failed = []
    async with grpc.aio.insecure_channel(target) as channel:
        for what, call in _ordinary().items():
            method: Any = channel.unary_unary(call.method)
            try:
                await method(call.data, metadata=METADATA, timeout=_ANSWER_SECONDS)
            except grpc.aio.AioRpcError as error:
                failed.append(f"{what}: {error.code().name}: {error.details()}")
    return failed


def _ordinary() -> dict[str, Call]:
    schema, regex = chat(tokens=64), chat(tokens=16)
    schema.output_format.json_schema_text = '{"type": "object", "properties": {"a": {"type": "boolean"}}}'
    regex.output_format.regex = "(?i)yes|no"
    tool = chat(tokens=64)
    tool.tools.add(
        name="get_weather", parameters_json='{"type": "object", "properties": {"city": {"type": "string"}}}'
    )
    tool.tool_choice.mode = tool_pb2.ToolChoice.MODE_REQUIRED
    return {
        "text": Call(chat().SerializeToString(), CHAT),
        "a schema": Call(schema.SerializeToString(), CHAT),
        "a regular expression": Call(regex.SerializeToString(), CHAT),
        "a tool": Call(tool.SerializeToString(), CHAT),
        "a picture": show(flat_png(64, 64)),
        "tokens of a prompt": counting(chat()),
        "tokens of a text": tokenizing("a text"),
    }


async def context_window(target: str) -> int:
    """The served model's."""
    async with grpc.aio.insecure_channel(target) as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_service_pb2.ListModelsRequest()
        model = (await models.ListModels(request, metadata=METADATA)).models[0]
        return int(model.context_window)


def table(outcomes: list[Outcome]) -> Table:
    """The outcomes, a row each."""
    rendered = Table(box=box.MARKDOWN)
    for title in ("one caller sends", "which ends", "after s"):
        rendered.add_column(title)
    for title in ("p50 ms", "p99", "longest", "first token", "after: longest", "first token "):
        rendered.add_column(title, justify="right")
    for title in ("MiB more", "after", "broken"):
        rendered.add_column(title, justify="right")
    for outcome in outcomes:
        before, during, after = outcome.before, outcome.during, outcome.after
        memory = sum(outcome.memory_before.values())
        rendered.add_row(
            outcome.name,
            ", ".join(f"{count} {code}" for code, count in Counter(outcome.ended).most_common()),
            f"{outcome.seconds:.1f}",
            f"{before.p50:.0f} -> {during.p50:.0f}",
            f"{before.p99:.0f} -> {during.p99:.0f} ({during.p99 / before.p99:.1f}x)",
            f"{before.largest:.0f} -> {during.largest:.0f}",
            f"{before.first_token:.0f} -> {during.first_token:.0f}",
            f"{after.largest:.0f}",
            f"{after.first_token:.0f}",
            f"{sum(outcome.memory_peak.values()) - memory:.0f}",
            f"{sum(outcome.memory_after.values()) - memory:.0f}",
            str(len(outcome.broken) + len(outcome.refused) + outcome.tracebacks),
        )
    return rendered


async def run(arguments: argparse.Namespace, flags: list[str]) -> list[Outcome]:
    """Measures the cases, one after the other."""
    outcomes = []
    served = ["bench.neighbours.scripted"] if arguments.scripted else octet_serve(flags)
    keys = "\n".join(f"{name} {name}" for name in (sender.KEY, KEY))
    async with serving(*served, environment={**os.environ, "OCTET_API_KEYS": keys}) as server:
        window = await context_window(server.target)
        # What is made when it is first needed is not to be taken for a case's.
        await broken(server.target)
        for name in arguments.cases or cases():
            outcome = await measure(server, name, window, arguments.seconds)
            print(outcome, file=sys.stderr, flush=True)
            outcomes.append(outcome)
    return outcomes


def main() -> None:
    """Measures, prints the table, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=cases(), help="some of them; all by default")
    parser.add_argument("--scripted", action="store_true", help="no model: a script answers")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long what is sent again is sent")
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    parser.add_argument("--send", nargs=2, metavar=("TARGET", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--window", type=int, help=argparse.SUPPRESS)
    arguments, flags = parser.parse_known_args()
    if arguments.send:
        target, name = arguments.send
        sender.send(target, name, arguments.window, arguments.seconds)
        return
    if arguments.scripted and flags:
        parser.error(f"a scripted engine takes no flags: {' '.join(flags)}")
    # So that a time limit ends the server as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    outcomes = asyncio.run(run(arguments, flags))
    described = machine.describe("cpu")
    console = Console(width=250)
    console.print(machine.summary(described), markup=False, highlight=False)
    console.print(table(outcomes))
    if arguments.json_file is not None:
        report = {"machine": described, "outcomes": [asdict(outcome) for outcome in outcomes]}
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
