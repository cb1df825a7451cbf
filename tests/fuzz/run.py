"""Looks for requests that a server does not answer as its contract says.

    make fuzz SECONDS=60                  # a scripted engine, and for a third of the time the demo checkpoint
    make fuzz SECONDS=60 SEED=7           # the same cases again
    make fuzz REPLAY=tests/fuzz/corpus/a.json

A server is a process of its own, called over real channels by several callers at once. After each case the
slots must be free again and the log without errors; at its end the server must have no more memory and
processes than at the beginning, and end. Each finding is made as small as it can be, and written to a file
under build/fuzz that shows it again. Exit status 1 when there are any.

Cases are made, and made smaller, by Hypothesis: its choices are the case, so that all that was drawn, be it
messages out of descriptors, files, schemas or damaged bytes, is made smaller without code of its own. What is
guided by coverage would have to run inside the server, which is to be looked at from outside here.
"""

import argparse
import asyncio
import hashlib
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.cases import Case, dump, load
from tests.fuzz.rounds import cases as all_cases
from tests.fuzz.server import ROOT, ServerProcess

FOUND = ROOT / "build" / "fuzz"

CASES_OF_A_SEED = 200
"""Hypothesis remembers all that it has tried, so now and then it begins anew."""

SHRINK_SECONDS = 40
PROGRESS_SECONDS = 10

DEMO_SHARE = 1 / 3
"""Of the time, when both engines are asked."""

MEMORY_BYTES = 256 * 2**20
MORE_PROCESSES = 5
"""Three that decode pictures, one that compiles constraints, and one that is being replaced."""


# What vLLM writes before each line of a traceback.
_PREFIX = re.compile(r"^\(\w+ pid=\d+\) [A-Z]+ [\d:. -]+\[[^]]*\] ")


class Finding(Exception):
    """A case that went wrong."""


class Enough(BaseException):
    """The time is over; no failure that Hypothesis would look into."""


def kind_of(problem: str) -> str:
    """What findings of the same fault have in common."""
    lines = [_PREFIX.sub("", line) for line in problem.splitlines()]
    if "Traceback (most recent call last):" in lines:
        raised = next((line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception)\b", line)), "")
        where = [line for line in lines if "File " in line]
        problem = f"{raised} {where[-1:]}"
    return re.sub(r"[0-9a-f]{8,}|\d+|'.*?'|\".*?\"", "", problem)[:120]


class Hunt:
    """Plays cases to servers with one kind of engine.

    Args:
        kind: "scripted" or "demo".
        number: what decides which cases are played.
        faults: whether the engine has faults that can be asked for.
        cases: what is played; by default everything that the server takes.
    """

    def __init__(
        self,
        kind: str,
        number: int,
        *,
        faults: bool = False,
        cases: st.SearchStrategy[Case] | None = None,
    ) -> None:
        self._kind = kind
        self._number = number
        self._faults = faults
        self._strategy = all_cases(gateways=kind == "demo") if cases is None else cases
        self._loop = asyncio.new_event_loop()
        self._server: ServerProcess | None = None
        self._cases = 0
        self._known: set[str] = set()
        self._hunted = ""
        self._smallest: tuple[Case, list[str]] | None = None
        self._shrink_until = 0.0
        self._memory, self._memory_at = 0, 0.0
        self.findings: list[str] = []
        """What was found, a text each."""

    def replay(self, path: Path) -> None:
        """Plays a file's case."""
        found = self._play(load(path))
        self.findings += [f"{path}: {problem}" for problem in found]

    def run(self, seconds: float, *, found: Callable[[Case, str], Path]) -> None:
        """Plays cases for so many seconds.

        Args:
            seconds: how long, without the server's start.
            found: writes a case that went wrong, and what is wrong, to a file.
        """
        server = self._serving()
        until = time.monotonic() + seconds
        processes = len(server.processes())
        # By then caches are full and pools have all their processes.
        self._memory, self._memory_at = 0, until - seconds * 2 / 3
        number = 0
        while time.monotonic() < until:
            self._batch(self._number + number, until)
            number += 1
            if self._smallest is not None:
                self._report(self._number + number - 1, found)
        grown = self._grown(processes) if self._memory and self._server is server else []
        self.findings += [f"seeds {self._number} to {self._number + number - 1}: {text}" for text in grown]

    def close(self) -> None:
        """Ends the server."""
        if self._server is not None:
            found = self._loop.run_until_complete(self._server.stop())
            self.findings += found
            self._server = None
        self._loop.close()

    def _serving(self) -> ServerProcess:
        if self._server is not None and not self._server.running:
            self._server.kill()
            self._server = None
        if self._server is None:
            self._server = ServerProcess(self._kind, faults=self._faults)
            self._loop.run_until_complete(self._server.start())
        return self._server

    def _play(self, case: Case) -> list[str]:
        return self._loop.run_until_complete(self._serving().findings(case))

    def _batch(self, number: int, until: float) -> None:
        """Plays the cases of one seed, up to the first that goes wrong, which is made smaller."""
        self._hunted, self._smallest = "", None
        progress = time.monotonic() + PROGRESS_SECONDS

        @seed(number)
        @settings(
            max_examples=CASES_OF_A_SEED,
            phases=[Phase.generate, Phase.shrink],
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(self._strategy)
        def play(case: Case) -> None:
            nonlocal progress
            now = time.monotonic()
            if now > (self._shrink_until if self._hunted else until):
                raise Enough
            if not self._memory and now > self._memory_at:
                self._memory = self._serving().memory()
            if now > progress:
                progress = now + PROGRESS_SECONDS
                self._say(number)
            self._try(case)

        try:
            play()
        except (Finding, Enough):
            pass
        except Exception as error:
            # Hypothesis minds that a case goes wrong only sometimes; what was found was found all the same.
            if self._smallest is None:
                raise
            print(f"fuzz: not every time: {type(error).__name__}", flush=True)

    def _try(self, case: Case) -> None:
        self._cases += 1
        found = [problem for problem in self._play(case) if kind_of(problem) not in self._known]
        if found and all("fuzz: STALL" in problem for problem in found) and not self._hunted:
            # Whatever else the machine did then, it will hardly do it again.
            found = [problem for problem in self._play(case) if kind_of(problem) not in self._known]
        kinds = [kind_of(problem) for problem in found]
        if not kinds or (self._hunted and self._hunted not in kinds):
            return
        if not self._hunted:
            self._hunted = kinds[0]
            self._shrink_until = time.monotonic() + SHRINK_SECONDS
        self._smallest = case, found
        raise Finding

    def _report(self, number: int, found: Callable[[Case, str], Path]) -> None:
        assert self._smallest is not None
        case, problems = self._smallest
        self._known.update(map(kind_of, problems))
        text = "\n".join(problems)
        path = found(case, text)
        self.findings.append(
            f"seed {number}, {self._kind}: {text}\n  again: make fuzz REPLAY={path} FUZZED={self._kind}"
        )
        print(f"fuzz: FOUND {self.findings[-1]}", flush=True)

    def _grown(self, processes: int) -> list[str]:
        """What the server has more of than it had."""
        server = self._serving()
        grown = []
        more = server.memory() - self._memory
        if more > MEMORY_BYTES:
            grown.append(f"the server has {more >> 20} MiB more memory")
        if len(now := server.processes()) > processes + MORE_PROCESSES:
            grown.append(f"the server has {len(now)} processes: {now}")
        print(
            f"fuzz: memory {self._memory >> 20} MiB and {more >> 20} more, {len(now)} processes", flush=True
        )
        return grown

    def _say(self, number: int) -> None:
        assert self._server is not None
        ended = ", ".join(f"{code} {count}" for code, count in self._server.ended.most_common())
        print(f"fuzz: seed {number}, {self._kind}: {self._cases} cases; calls: {ended}", flush=True)


def write(case: Case, about: str) -> Path:
    """Writes a case that went wrong to a file under build/fuzz."""
    text = dump(Case(case.calls, about[:2000]))
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    path.write_text(text)
    return path.relative_to(ROOT)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long cases are played")
    parser.add_argument("--seed", type=int, help="which cases; by lot when left out")
    parser.add_argument("--engine", choices=("scripted", "demo", "both"), default="both")
    parser.add_argument("--replay", type=Path, nargs="+", help="files of cases, which are played instead")
    arguments = parser.parse_args()
    # The server must not outlive this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    number = random.randrange(10**6) if arguments.seed is None else arguments.seed
    kinds = ("scripted", "demo") if arguments.engine == "both" else (arguments.engine,)
    shares = {"scripted": 1 - DEMO_SHARE, "demo": DEMO_SHARE} if len(kinds) > 1 else {kinds[0]: 1.0}
    findings: list[str] = []
    if not arguments.replay:
        print(f"fuzz: SEED={number}", flush=True)
    for kind in kinds:
        hunt = Hunt(kind, number)
        try:
            if arguments.replay:
                for path in arguments.replay:
                    hunt.replay(path)
            else:
                hunt.run(arguments.seconds * shares[kind], found=write)
        finally:
            hunt.close()
        findings += hunt.findings
    for text in findings:
        print(f"\nfuzz: FINDING {text}")
    print(f"fuzz: {len(findings)} findings")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
