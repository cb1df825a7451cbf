"""Octet beside its peers: the same engine, model and flags, by the same clock, in one run.

    python -m bench.peers [--turns N] [--streams 1 8 32 64] [--only PEER...] [--json FILE] [-- ENGINE FLAGS]

All four run at the same time, and are asked in turns: one computes while the others wait.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.peers import report
from bench.peers.bursts import Job
from bench.peers.cpu import snapshot, spent
from bench.peers.peer import PEERS, Peer, environment_of
from bench.peers.report import Turn
from bench.versions import versions
from octet import demo
from octet.bench import machine
from octet.bench.serving.figures import Figures
from octet.bench.serving.play import Load

_WARM_UP = 8


async def measure(arguments: argparse.Namespace, flags: Sequence[str]) -> dict[int, dict[str, list[Turn]]]:
    """Starts all peers, and goes through the levels in every turn.

    Raises:
        RuntimeError: one of them does not start.
    """
    environment = environment_of(arguments.cores)
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octet-peers-")))
        peers: dict[str, Peer] = {}
        for name in arguments.only:
            title, start = PEERS[name]
            print(f"starting {title}", file=sys.stderr)
            peers[name] = await stack.enter_async_context(start(flags, environment, logs / f"{name}.log"))
        for name, peer in peers.items():
            await peer.prepare(_job(arguments, _WARM_UP, "warm"))
            _check(PEERS[name][0], arguments, await peer.play())
        turns: dict[int, dict[str, list[Turn]]] = {
            streams: {name: [] for name in peers} for streams in arguments.streams
        }
        for turn in range(arguments.turns):
            # Each of them goes first at times.
            first = turn % len(peers)
            order = [*peers, *peers][first : first + len(peers)]
            for streams in arguments.streams:
                for name in order:
                    job = _job(arguments, streams, f"{turn}/{streams}")
                    turns[streams][name].append(await _one(peers, name, job))
                    print(_line(turn, streams, PEERS[name][0], turns[streams][name][-1]), file=sys.stderr)
        return turns


def _check(title: str, arguments: argparse.Namespace, loads: Sequence[Load]) -> None:
    """Sees that answers are counted, and as long as they are to be: what is compared has to be the same.

    Raises:
        RuntimeError: they are not.
    """
    for outcome in (outcome for load in loads for outcome in load.outcomes):
        tokens = outcome.usage.answer_tokens if outcome.usage is not None else 0
        if tokens != arguments.answer_tokens:
            raise RuntimeError(f"{title} gave {tokens} tokens: {outcome.status} {outcome.message}")


def _job(arguments: argparse.Namespace, streams: int, salt: str) -> Job:
    return Job.of(streams, arguments.prompt_tokens, arguments.answer_tokens, salt)


async def _one(peers: dict[str, Peer], name: str, job: Job) -> Turn:
    """One peer's turn, with what its processes and those of the others compute meanwhile."""
    await peers[name].prepare(job)
    before = {other: snapshot(peer.process) for other, peer in peers.items()}
    began = time.perf_counter()
    loads = await peers[name].play()
    seconds = time.perf_counter() - began
    taken = {other: spent(peer.process, before[other]) for other, peer in peers.items()}
    others = sum(each.whole for other, each in taken.items() if other != name)
    return Turn(Figures.of(loads), taken[name], others / seconds)


def _line(turn: int, streams: int, title: str, measured: Turn) -> str:
    return f"turn {turn + 1}, {streams} at once, {title}: {measured.speed:.0f} tokens/s"


def main() -> None:
    """Measures, prints the tables, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(description="Measure Octet beside its peers.")
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64], help="at once")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--answer-tokens", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument(
        "--cores",
        default=os.environ.get("VLLM_CPU_OMP_THREADS_BIND", _all_cores()),
        help="that every engine computes on, as VLLM_CPU_OMP_THREADS_BIND (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    parser.add_argument(
        "flags", nargs="*", help="MODEL and flags of the engine; default: the demo checkpoint"
    )
    arguments = parser.parse_args()
    flags = arguments.flags or _demo_flags(max(arguments.streams))
    # So that a time limit ends the servers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        turns = asyncio.run(measure(arguments, flags))
    except RuntimeError as error:
        sys.exit(f"bench.peers: {error}")
    described = machine.host()
    titles = {name: title for name, (title, _) in PEERS.items()}
    rows = report.rows_of(turns)
    found = report.aims(rows)
    console = Console(width=220, markup=False, highlight=False)
    console.print(machine.host_summary(described))
    console.print(
        f"medians of {arguments.turns} turns; {' '.join(flags)}; cores {arguments.cores}", soft_wrap=True
    )
    console.print(report.table(rows, titles))
    if found:
        console.print(report.aims_table(found))
    console.print(_idle(turns))
    if arguments.json_file is not None:
        written = _as_json(arguments, flags, turns)
        arguments.json_file.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def _all_cores() -> str:
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


def _demo_flags(streams: int) -> list[str]:
    """Room for as many at once as there are; no compilation, as in `octet demo`."""
    return [
        *(str(demo.PATH), "--enforce-eager", "--kv-cache-memory-bytes", "256M"),
        *("--max-num-seqs", str(max(16, streams))),
    ]


def _idle(turns: report.Turns) -> str:
    shares = [turn.others_share for peers in turns.values() for each in peers.values() for turn in each]
    return f"the peers that waited took {max(shares):.1%} of a core at most"


def _as_json(arguments: argparse.Namespace, flags: Sequence[str], turns: report.Turns) -> dict[str, Any]:
    return {
        "machine": machine.describe("cpu"),
        "versions": versions(),
        "flags": list(flags),
        "cores": arguments.cores,
        "prompt_tokens": arguments.prompt_tokens,
        "answer_tokens": arguments.answer_tokens,
        "titles": {name: title for name, (title, _) in PEERS.items()},
        "levels": [
            {
                "streams": streams,
                "rows": {name: asdict(report.row_of(peers, name)) for name in peers},
                "turns": {name: [turn.as_json() for turn in each] for name, each in peers.items()},
            }
            for streams, peers in turns.items()
        ],
    }


if __name__ == "__main__":
    main()
