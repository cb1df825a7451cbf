"""What was left behind, and what has grown, between two moments at which nobody asked a server anything."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.soak.processes import PASSING, Snapshot

GROWTH = 0.02
"""By how much a process may grow after it is warm."""

SLACK_BYTES = 4 * 2**20
"""What counts as no growth of the smallest processes: a few arenas of the allocator's."""

DECODERS = 3
COMPILERS = 1
_MOST = {"decoder": DECODERS, "compiler": COMPILERS}

THREADS = 8
"""How many more threads a server may have than when it was warm: its pools start them when they need them."""

MIB = 2**20


@dataclass
class Report:
    """How it went.

    Attributes:
        seconds: for how long calls were made.
        calls: how many.
        ended: of them, by their status.
        memory: bytes of each process, warm and at the end.
        findings: what was wrong.
    """

    seconds: float
    calls: int
    ended: Counter[str]
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def compare(self, warm: Snapshot, end: Snapshot) -> None:
        """Adds what the server has at the end and had not when it was warm."""
        self.memory = {role: (warm.memory[role], end.memory.get(role, 0)) for role in warm.memory}
        self.findings += left_behind(warm, end)
        self.findings += grown(warm, end)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        # asdict would count the items of a Counter anew.
        return vars(self) | {"ended": dict(self.ended)}

    def lines(self) -> Iterator[str]:
        """The report for people."""
        ended = ", ".join(f"{name} {count}" for name, count in self.ended.most_common())
        yield f"{self.calls} calls in {self.seconds:.0f} s: {ended}"
        for role, (warm, end) in self.memory.items():
            more = f"{end / warm - 1:+.1%}"
            yield f"{role}: {warm / MIB:.1f} MiB when warm, {end / MIB:.1f} MiB at the end ({more})"
        yield from (f"FOUND {finding}" for finding in self.findings)
        if not self.findings:
            yield "nothing left, nothing grown, no error of the server's own"


def left_behind(warm: Snapshot, end: Snapshot) -> Iterator[str]:
    """What there is more of at the end: processes, threads, descriptors, tasks, shared memory, files."""
    for role, count in end.processes.items():
        if count > _MOST.get(role, warm.processes[role]):
            yield f"processes like {role}: {count}, {warm.processes[role]} when warm"
    lasting = [role for role in end.processes if role not in PASSING]
    for role in lasting:
        if end.threads[role] > warm.threads[role] + (THREADS if role == "server" else 0):
            yield f"{role} has {end.threads[role]} threads, {warm.threads[role]} when warm"
        open_then, open_now = (one.descriptors.get(role, Counter()) for one in (warm, end))
        if more := open_now - _with_room(open_then, role):
            yield f"{role} has more open than when warm: {dict(more)}"
    if more := end.tasks - warm.tasks:
        yield f"tasks that were not there when warm: {dict(more)}"
    for place, there in (("shared memory", end.shared - warm.shared), ("its folder", end.files - warm.files)):
        if there:
            yield f"more in {place} than when warm: {sorted(there)}"


def grown(warm: Snapshot, end: Snapshot) -> Iterator[str]:
    """Processes that have grown."""
    for role, before in warm.memory.items():
        most = before + max(SLACK_BYTES, before * GROWTH)
        if role not in PASSING and end.memory.get(role, 0) > most:
            yield f"{role} has grown from {before / MIB:.1f} to {end.memory[role] / MIB:.1f} MiB"


def _with_room(descriptors: Counter[str], role: str) -> Counter[str]:
    """What a process may have open: the server has pipes to processes that come and go."""
    if role != "server":
        return descriptors
    return descriptors + Counter({"pipe:": 3 * (DECODERS + COMPILERS), "socket:": 2 * DECODERS})
