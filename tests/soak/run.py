"""Asks a server for everything that it has, for long, and looks for what stays behind.

    make soak MINUTES=30
    .venv/bin/python -m tests.soak.run --minutes 3 --seed 7 --json soak.json

A server process with the demo checkpoint is asked by several callers at once: chats, completions, batches,
tools, schemas and pictures, old and new, KServe's protocol and SMG's; a fifth of the calls are cancelled, a
twentieth have too short a deadline, some clients stop reading or break their connection, some requests are
wrong. After a third of the time, and at the end, all callers go, and the server is looked at when it is idle.

Exit status 1 when there is more of anything than when it was warm; when a process has grown by more than 2 %;
when a call ended otherwise than the contract says, INTERNAL and UNKNOWN first of all; or when the log has an
error.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.fuzz.server import WRONG
from tests.soak.callers import Callers
from tests.soak.mix import Mix
from tests.soak.processes import Watched
from tests.soak.report import Report

ROOT = Path(__file__).parents[2]
MODEL = "fake"
CALLERS = 12
START_SECONDS = 900
STOP_SECONDS = 60
WARM_SHARE = 1 / 3

# Caches that are full by the time that the server is held to be warm.
FLAGS = (
    *("--port", "0", "--metrics-port", "0", "--smg", "--kserve", "--served-model-name", MODEL),
    *("--enforce-eager", "--kv-cache-memory-bytes", "256M", "--max-num-seqs", "8"),
    *("--mm-processor-cache-gb", "0.002", "--max-waiting-requests", "64"),
)

_LINES_BEHIND = 60


@dataclass
class Server:
    """A server that is soaked.

    Attributes:
        process: the server.
        target: its address.
        watched: how it is looked at.
        log: its standard error.
        temporary: its folder of temporary files.
    """

    process: "subprocess.Popen[bytes]"
    target: str
    watched: Watched
    log: Path
    temporary: Path

    def errors(self) -> list[str]:
        """The first error in its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        wrong = next((number for number, line in enumerate(lines) if WRONG.search(line)), None)
        return [] if wrong is None else ["logged:\n" + "\n".join(lines[wrong : wrong + _LINES_BEHIND])]


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Server]:
    """A server with the demo checkpoint, for as long as the context lasts.

    Args:
        folder: an empty one for its log and its temporary files.
        flags: further ones.

    Raises:
        RuntimeError: with its log, when it does not start.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    log, said = folder / "log", folder / "said"
    with log.open("wb") as errors, said.open("wb") as output:
        command = [sys.executable, "-m", "tests.soak.serve", "serve", *FLAGS, *flags]
        environment = os.environ | {"TMPDIR": str(temporary)}
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=errors, env=environment)
    try:
        metrics = _logged(process, log, r"metrics on (http://\S+)")
        target = _logged(process, log, r"octet: serving \S+ on (\S+)")
        yield Server(process, target, Watched(process, said, metrics, temporary), log, temporary)
    finally:
        process.kill()
        process.wait()


def soak(server: Server, seconds: float, seed: int, *, callers: int = CALLERS) -> Report:
    """Makes calls for so long, and compares what the server has before and after most of them."""
    asking = Callers(server.target, callers, Mix(seed, MODEL, gateways=True, inferences=True))
    report = Report(seconds, 0, asking.ended)
    try:
        asyncio.run(asking.ask(seconds * WARM_SHARE))
        warm = server.watched.snapshot()
        asyncio.run(asking.ask(seconds * (1 - WARM_SHARE)))
        report.compare(warm, server.watched.snapshot())
    except (TimeoutError, psutil.NoSuchProcess, OSError) as error:
        report.findings.append(f"the server cannot be looked at: {error}")
    report.calls = asking.calls
    report.findings += [f"{count} times: {finding}" for finding, count in asking.findings.items()]
    report.findings += server.errors()
    return report


def stop(server: Server) -> list[str]:
    """Ends a server as supervisors do; what it leaves behind, or has to say against that."""
    family, marks = server.watched.family(), [path.name for path in server.temporary.glob("octet-engine-*")]
    server.process.send_signal(signal.SIGTERM)
    found = []
    try:
        status = server.process.wait(STOP_SECONDS)
        found += [f"the server ended with status {status}"] if status else []
    except subprocess.TimeoutExpired:
        found.append(f"the server did not end within {STOP_SECONDS} s of SIGTERM")
    _, alive = psutil.wait_procs(family, 10)
    found += [f"a process outlives the server: {process}" for process in alive]
    left = [name for name in os.listdir("/dev/shm") if any(mark in name for mark in marks)]
    left += [path.name for path in server.temporary.iterdir() if not path.name.startswith("torchinductor_")]
    return found + ([f"the server has left {left}"] if left else [])


def _logged(process: "subprocess.Popen[bytes]", log: Path, pattern: str) -> str:
    give_up = time.monotonic() + START_SECONDS
    while (match := re.search(pattern, log.read_text(errors="replace"))) is None:
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"the server does not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)
    return match[1]


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="soak", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="for how long calls are made (30)")
    parser.add_argument("--callers", type=int, default=CALLERS, help=f"how many at once ({CALLERS})")
    parser.add_argument("--seed", type=int, help="what decides what is asked; by lot when left out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also writes the report there")
    args = parser.parse_args()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    print(f"soak: seed {seed}, {args.callers} callers, {args.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="octet-soak-") as folder, serving(Path(folder)) as server:
        report = soak(server, 60 * args.minutes, seed, callers=args.callers)
        report.findings += stop(server)
    print("\n".join(report.lines()))
    if args.json:
        args.json.write_text(json.dumps({"seed": seed, **report.as_json()}, indent=1) + "\n")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
