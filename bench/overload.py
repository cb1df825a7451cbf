"""What a server does when more is asked of it than it can answer.

    python -m bench.overload [--seconds S] [--loads 1 2 4] [--json FILE] [SERVE FLAGS]...

Starts `octet serve` with the flags, measures how many requests a second it completes when it always has
enough to do, and then offers multiples of that: requests arrive at random (Poisson), whether or not earlier
ones have been answered, and whoever is refused does not come back.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import grpc
from rich import box
from rich.console import Console
from rich.table import Table

from bench.serving import octet_serve, serving
from octet.bench import machine
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc, content_pb2

SETTLE_SECONDS = 2.0
"""Left out at the beginning of a load: the queue has yet to fill."""

MakeRequest = Callable[[], chat_service_pb2.ChatRequest]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        sent: seconds since the load's beginning.
        code: name of its gRPC status.
        first_token_s: from sending to the first piece of the answer; None when there was none.
        total_s: from sending to the end.
        tokens: that were generated.
    """

    sent: float
    code: str
    first_token_s: float | None
    total_s: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Load:
    """A load and what came of it.

    Goodput is what was generated of completed answers, after `SETTLE_SECONDS` and before the load ended.
    Requests that begin together end together, so that counting ends would count them in lumps. Latencies are
    of answers that ended in that time.

    Attributes:
        offered: multiple of the capacity; 0 for the closed loop that measured it.
        requests_per_s: that arrived.
        goodput_tokens_per_s: of answers that were completed.
        codes: requests by gRPC status.
        first_token_s: median and 99th percentile.
        total_s: likewise.
        refusal_s: likewise, of those that were refused.
    """

    offered: float
    requests_per_s: float
    goodput_tokens_per_s: float
    codes: dict[str, int]
    first_token_s: tuple[float, float]
    total_s: tuple[float, float]
    refusal_s: tuple[float, float]


async def ask(stub: Any, request: chat_service_pb2.ChatRequest, started: float) -> Outcome:
    """Sends a request and takes its answer."""
    sent = time.monotonic()
    first: float | None = None
    tokens = 0
    code = grpc.StatusCode.OK
    try:
        async for chunk in stub.StreamChat(request):
            if first is None and chunk.deltas:
                first = time.monotonic() - sent
            tokens = max(tokens, chunk.usage.completion_tokens)
    except grpc.aio.AioRpcError as error:
        code = error.code()
    return Outcome(sent - started, code.name, first, time.monotonic() - sent, tokens)


async def closed_loop(stub: Any, make: MakeRequest, concurrency: int, seconds: float) -> list[Outcome]:
    """Keeps so many requests going for so long."""
    started = time.monotonic()
    outcomes = []

    async def keep_asking() -> None:
        while time.monotonic() - started < seconds:
            outcomes.append(await ask(stub, make(), started))

    await asyncio.gather(*(keep_asking() for _ in range(concurrency)))
    return outcomes


async def open_loop(
    stub: Any, make: MakeRequest, rate: float, seconds: float, seed: int = 0
) -> list[Outcome]:
    """Sends requests at random times, `rate` a second on average, for so long; waits for every answer."""
    arrivals = random.Random(seed)
    started = time.monotonic()
    tasks = []
    due = arrivals.expovariate(rate)
    while due < seconds:
        await asyncio.sleep(max(0.0, started + due - time.monotonic()))
        tasks.append(asyncio.create_task(ask(stub, make(), started)))
        due += arrivals.expovariate(rate)
    return list(await asyncio.gather(*tasks))


def summarize(outcomes: list[Outcome], offered: float, seconds: float) -> Load:
    """What came of a load that lasted so long."""
    settle = min(SETTLE_SECONDS, seconds / 4)
    answered = [outcome for outcome in outcomes if outcome.code == "OK"]
    ended = [outcome for outcome in answered if settle <= outcome.sent + outcome.total_s < seconds]
    generated = sum(outcome.tokens * _share(outcome, settle, seconds) for outcome in answered)
    return Load(
        offered=offered,
        requests_per_s=len(outcomes) / seconds,
        goodput_tokens_per_s=generated / (seconds - settle),
        codes=dict(Counter(outcome.code for outcome in outcomes)),
        first_token_s=_percentiles([o.first_token_s for o in ended if o.first_token_s is not None]),
        total_s=_percentiles([outcome.total_s for outcome in ended]),
        refusal_s=_percentiles([outcome.total_s for outcome in outcomes if outcome.code != "OK"]),
    )


def table(loads: list[Load]) -> Table:
    """The loads, each against the best goodput."""
    rendered = Table(box=box.MARKDOWN)
    for title in ("load", "arrive/s", "tokens/s", "of the best", "refused"):
        rendered.add_column(title, justify="right")
    for title in ("first token p50", "p99", "total p50", "p99", "refusal p50", "p99"):
        rendered.add_column(title, justify="right")
    best = max(load.goodput_tokens_per_s for load in loads)
    for load in loads:
        refused = sum(number for code, number in load.codes.items() if code != "OK")
        latencies = (*load.first_token_s, *load.total_s, *load.refusal_s)
        rendered.add_row(
            f"{load.offered:g}x" if load.offered else "closed loop",
            f"{load.requests_per_s:.1f}",
            f"{load.goodput_tokens_per_s:.0f}",
            f"{load.goodput_tokens_per_s / best:.1%}",
            f"{refused / sum(load.codes.values()):.0%}",
            *(f"{seconds * 1e3:.0f} ms" for seconds in latencies),
        )
    return rendered


def _share(outcome: Outcome, begin: float, end: float) -> float:
    """The share of an answer that was generated between two moments, if it came at an even pace."""
    first = outcome.sent + (outcome.first_token_s or 0.0)
    last = outcome.sent + outcome.total_s
    return max(0.0, min(last, end) - max(first, begin)) / (last - first) if last > first else 0.0


def _percentiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        only = values[0] if values else float("nan")
        return only, only
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def make_requests(tokens: int) -> MakeRequest:
    """Requests for so many tokens each, no two with the same prompt, lest the prefix cache flatter."""
    numbers = count()

    def make() -> chat_service_pb2.ChatRequest:
        part = content_pb2.Part(text=f"Tell me story number {next(numbers)}.")
        return chat_service_pb2.ChatRequest(
            messages=[content_pb2.Message(role=content_pb2.ROLE_USER, parts=[part])],
            sampling=chat_service_pb2.SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=1.0),
        )

    return make


async def measure(target: str, make: MakeRequest, arguments: argparse.Namespace) -> list[Load]:
    """The closed loop, then each of the loads."""
    async with grpc.aio.insecure_channel(target, options=[("grpc.enable_retries", 0)]) as channel:
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        await closed_loop(stub, make, arguments.concurrency, 1.0)
        outcomes = await closed_loop(stub, make, arguments.concurrency, arguments.seconds)
        loads = [summarize(outcomes, 0, arguments.seconds)]
        print(loads[-1], file=sys.stderr)
        capacity = loads[0].goodput_tokens_per_s / arguments.tokens
        for offered in arguments.loads:
            outcomes = await open_loop(stub, make, offered * capacity, arguments.seconds)
            loads.append(summarize(outcomes, offered, arguments.seconds))
            print(loads[-1], file=sys.stderr)
    return loads


def main() -> None:
    """Measures, prints the table, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(description="Offer a server more than it can answer.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load lasts")
    parser.add_argument("--loads", type=float, nargs="+", default=[1.0, 2.0, 4.0], help="times the capacity")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--concurrency", type=int, default=18, help="of the closed loop")
    parser.add_argument("--target", help="a server that runs already")
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    arguments, flags = parser.parse_known_args()

    async def run() -> list[Load]:
        make = make_requests(arguments.tokens)
        if arguments.target is not None:
            return await measure(arguments.target, make, arguments)
        async with serving(*octet_serve(flags)) as server:
            return await measure(server.target, make, arguments)

    # So that a time limit ends the server as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    loads = asyncio.run(run())
    described = machine.describe("cpu")
    console = Console(width=200)
    console.print(machine.summary(described), markup=False, highlight=False)
    console.print(table(loads))
    if arguments.json_file is not None:
        report = {"machine": described, "tokens": arguments.tokens, "loads": [asdict(load) for load in loads]}
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
