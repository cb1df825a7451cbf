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
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.serving import octet_serve, serving
from octet.bench import machine
from octet.bench.serving.arrivals import poisson
from octet.bench.serving.figures import Spread
from octet.bench.serving.octet_grpc import OctetTarget
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.play import OK, Outcome, Prepared, closed, open_ended
from octet.bench.serving.target import Form

SETTLE_SECONDS = 2.0
"""Left out at the beginning of a load: the queue has yet to fill."""

_PROMPT_WORDS = 8
_TIMEOUT = 600.0

Make = Callable[[float | None], Prepared]
"""The next request, with the time when it is to be sent."""


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


async def closed_loop(target: OctetTarget, make: Make, concurrency: int, seconds: float) -> list[Outcome]:
    """Keeps so many requests going for so long."""

    def until_then() -> Iterator[Prepared]:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            yield make(None)

    return (await closed(target, until_then(), concurrency, lambda outcome: None)).outcomes


async def open_loop(
    target: OctetTarget, make: Make, rate: float, seconds: float, seed: int = 0
) -> list[Outcome]:
    """Sends requests at random times, `rate` a second on average, for so long; waits for every answer."""
    work = [make(due) for due in poisson(rate, seconds, random.Random(seed))]
    return (await open_ended(target, work, lambda outcome: None)).outcomes


def summarize(outcomes: list[Outcome], offered: float, seconds: float) -> Load:
    """What came of a load that lasted so long."""
    settle = min(SETTLE_SECONDS, seconds / 4)
    answered = [outcome for outcome in outcomes if outcome.status == OK]
    ended = [outcome for outcome in answered if settle <= outcome.ended < seconds]
    generated = sum(
        outcome.usage.answer_tokens * _share(outcome, settle, seconds)
        for outcome in answered
        if outcome.usage is not None
    )
    return Load(
        offered=offered,
        requests_per_s=len(outcomes) / seconds,
        goodput_tokens_per_s=generated / (seconds - settle),
        codes=dict(Counter(outcome.status for outcome in outcomes)),
        first_token_s=_percentiles([o.pieces[0] - o.due for o in ended if o.pieces]),
        total_s=_percentiles([o.ended - o.due for o in ended]),
        refusal_s=_percentiles([o.ended - o.due for o in outcomes if o.status != OK]),
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
        refused = sum(number for code, number in load.codes.items() if code != OK)
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
    first = outcome.pieces[0] if outcome.pieces else outcome.sent
    last = outcome.ended
    return max(0.0, min(last, end) - max(first, begin)) / (last - first) if last > first else 0.0


def _percentiles(values: list[float]) -> tuple[float, float]:
    percentiles = Spread.of(values).percentiles
    return percentiles[50], percentiles[99]


def make_requests(target: OctetTarget, tokens: int) -> Make:
    """Requests for so many tokens each, no two with the same prompt, lest the prefix cache flatter."""
    numbers = count()
    form = Form(temperature=1.0)

    def make(due: float | None) -> Prepared:
        order = Order(next(numbers), Kind.TEXT, _PROMPT_WORDS, tokens, due)
        return order, target.prepare(order, form)

    return make


async def measure(address: str, arguments: argparse.Namespace) -> list[Load]:
    """The closed loop, then each of the loads."""
    target = OctetTarget(address, timeout=_TIMEOUT)
    make = make_requests(target, arguments.tokens)
    try:
        await closed_loop(target, make, arguments.concurrency, 1.0)
        outcomes = await closed_loop(target, make, arguments.concurrency, arguments.seconds)
        loads = [summarize(outcomes, 0, arguments.seconds)]
        print(loads[-1], file=sys.stderr)
        capacity = loads[0].goodput_tokens_per_s / arguments.tokens
        for offered in arguments.loads:
            outcomes = await open_loop(target, make, offered * capacity, arguments.seconds)
            loads.append(summarize(outcomes, offered, arguments.seconds))
            print(loads[-1], file=sys.stderr)
    finally:
        await target.close()
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
        if arguments.target is not None:
            return await measure(arguments.target, arguments)
        async with serving(*octet_serve(flags)) as server:
            return await measure(server.target, arguments)

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
