"""What a server's start takes, what it holds then, and what each kind of call costs the first time.

    python -m bench.start [--calls N] [--json FILE] [SERVE FLAGS]...

Starts `octet serve` with the flags (none: the demo checkpoint) and waits until it serves. Then it makes calls
of every kind, one after the other: what is loaded only when it is asked for shows in the first of its kind.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from bench.serving import octet_serve, serving
from octet.bench import machine
from octet.client import AsyncClient
from octet.translate.values import dict_to_struct
from octet.v1 import chat_service_pb2

MIB = 1024**2

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
TOOL = {"name": "weather", "description": "The weather of a place.", "parameters": SCHEMA}

Call = Callable[[AsyncClient, int], Any]


@dataclass(frozen=True, slots=True)
class Process:
    """What a process has used by the time that the server serves.

    Attributes:
        name: its command, or vLLM's name for it.
        cpu_s: processor time, seconds.
        uss_mib: memory that is its own.
        pss_mib: that, and its share of what it shares with others.
    """

    name: str
    cpu_s: float
    uss_mib: float
    pss_mib: float


@dataclass(slots=True)
class Start:
    """A start and the calls after it.

    Attributes:
        serving_s: seconds from the start of the process until it serves.
        processes: the server's own first.
        calls_s: seconds of each call, by kind, in the order in which they were made.
        failures: what went wrong instead, by kind.
        after: the server's own process after the calls.
    """

    serving_s: float
    processes: list[Process]
    calls_s: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    after: Process | None = None


def describe(process: psutil.Process) -> Process:
    """What a process has used so far."""
    cpu, memory = process.cpu_times(), process.memory_full_info()
    name = " ".join(process.cmdline())[:60]
    return Process(name, cpu.user + cpu.system, memory.uss / MIB, memory.pss / MIB)


def picture(number: int, width: int, height: int) -> Image.Image:
    """A picture like no other, so that no cache knows it."""
    return Image.new("RGB", (width, height), (number % 256, number // 256, 0))


def _chat(text: str = "Tell me about number {}.", **options: Any) -> Call:
    """A chat that asks for two tokens, another text each time."""
    return lambda client, n: client.chat(text.format(n), **({"max_tokens": 2, "temperature": 0.0} | options))


def _shown(width: int, height: int, **options: Any) -> Call:
    """The same with a picture."""
    return lambda client, n: client.chat(
        f"What is this, {n}?", images=[picture(n, width, height)], max_tokens=2, **options
    )


def _format(**form: Any) -> Call:
    """The same with an answer of a form."""
    return _chat(output_format=chat_service_pb2.OutputFormat(**form), max_tokens=8)


def kinds() -> dict[str, Call]:
    """The kinds of calls, from plain ones to those that need most."""
    return {
        "tokenize": lambda client, n: client.tokenize(f"Number {n} is a number."),
        "detokenize": lambda client, n: client.detokenize([n + 10, n + 11]),
        "count tokens": lambda client, n: client.count_tokens(f"How long is {n}?"),
        "text": _chat(),
        "8 texts at once": lambda client, n: asyncio.gather(
            *(client.count_tokens(f"{8 * n + i} " * 500) for i in range(8))
        ),
        "sampled": _chat(temperature=1.0, top_p=0.9, top_k=20, min_p=0.01, seed=1),
        "penalties": _chat(presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1),
        "log probabilities": _chat(logprobs=True, top_logprobs=5),
        "prompt's log probabilities": _chat(prompt_logprobs=1),
        "logit bias": _chat(logit_bias={20: 1.0}),
        "bad words": _chat(bad_words=["never", "ever"]),
        "allowed tokens": _chat(allowed_token_ids=[20, 21, 22]),
        "2 candidates": _chat(n=2, temperature=1.0),
        "tools": _chat(tools=[TOOL]),
        "tool required": _chat(tools=[TOOL], tool_choice="required", max_tokens=8),
        "tool named": _chat(tools=[TOOL], tool_choice="weather", max_tokens=8),
        "JSON": _format(json_object={}),
        "JSON Schema": _format(json_schema=dict_to_struct(SCHEMA)),
        "regex": _format(regex="[a-z]{1,5}"),
        "choice": _format(choice={"values": ["yes", "no"]}),
        "grammar": _format(grammar='root ::= "yes" | "no"'),
        "count a picture's tokens": lambda client, n: client.count_tokens(
            "And this?", images=[picture(n, 300, 200)]
        ),
        "picture": _shown(640, 480),
        "tall picture": _shown(480, 1920),
        "wide, pan and scan": _shown(1920, 640, pan_and_scan=True),
        "wide, no pan and scan": _shown(1920, 640, pan_and_scan=False),
    }


async def measure_calls(client: AsyncClient, calls: int, numbers: Iterator[int], start: Start) -> None:
    """Makes so many calls of each kind and notes how long each took, or that they fail."""
    for kind, call in kinds().items():
        taken = []
        try:
            for _ in range(calls):
                began = time.monotonic()
                await call(client, next(numbers))
                taken.append(time.monotonic() - began)
        except Exception as error:
            start.failures[kind] = str(error)
        start.calls_s[kind] = taken
        print(kind, [round(seconds, 3) for seconds in taken], start.failures.get(kind, ""), file=sys.stderr)


async def measure(calls: int, flags: list[str]) -> Start:
    """Starts the server, and calls it."""
    began = time.monotonic()
    async with serving(*octet_serve(flags)) as server:
        serving_s = time.monotonic() - began
        target, own = server.target, server.process
        start = Start(serving_s, [describe(process) for process in (own, *own.children(recursive=True))])
        for process in start.processes:
            print(process, file=sys.stderr)
        async with AsyncClient(target) as client:
            await measure_calls(client, calls, count(1), start)
        start.after = describe(own)
    return start


def tables(start: Start) -> Iterator[Table]:
    """The processes, and the calls by kind, the first one beside the median of the others."""
    rendered = Table(box=box.MARKDOWN)
    rendered.add_column("process")
    for title in ("CPU s", "USS MiB", "PSS MiB"):
        rendered.add_column(title, justify="right")
    for process in [*start.processes, *([start.after] if start.after else [])]:
        rendered.add_row(
            process.name, f"{process.cpu_s:.1f}", f"{process.uss_mib:.0f}", f"{process.pss_mib:.0f}"
        )
    yield rendered
    rendered = Table(box=box.MARKDOWN)
    rendered.add_column("call")
    for title in ("first", "others"):
        rendered.add_column(title, justify="right")
    for kind, (first, *others) in ((kind, calls) for kind, calls in start.calls_s.items() if len(calls) > 1):
        rendered.add_row(kind, f"{first * 1e3:.0f} ms", f"{statistics.median(others) * 1e3:.0f} ms")
    yield rendered


def main() -> None:
    """Measures, prints the tables, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(description="Start a server, and call it for the first time.")
    parser.add_argument("--calls", type=int, default=3, help="of each kind; 0: only start it")
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    arguments, flags = parser.parse_known_args()
    # So that a time limit ends the server as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    start = asyncio.run(measure(arguments.calls, flags))
    described = machine.describe("cpu")
    console = Console(width=160)
    console.print(machine.summary(described), markup=False, highlight=False)
    console.print(f"serving after {start.serving_s:.1f} s")
    for table in tables(start):
        console.print(table)
    if arguments.json_file is not None:
        report = {"machine": described, "flags": flags, **asdict(start)}
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
