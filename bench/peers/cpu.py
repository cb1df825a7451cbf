"""Processor time of a server's processes."""

from collections.abc import Mapping
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds.

    Attributes:
        front: of the process that is asked.
        whole: of it and all that it has started.
    """

    front: float
    whole: float


Snapshot = Mapping[int, float]
"""Processor seconds so far, by process id, of a process and all that it has started."""


def snapshot(process: psutil.Process) -> Snapshot:
    """What a process and its descendants have computed up to now; those that end meanwhile are left out."""
    seconds = {}
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds[each.pid] = times.user + times.system
    return seconds


def spent(process: psutil.Process, before: Snapshot) -> Spent:
    """What was computed since a snapshot. A process that is new counts from its beginning."""
    now = snapshot(process)
    front = now[process.pid] - before[process.pid]
    return Spent(front, sum(seconds - before.get(pid, 0.0) for pid, seconds in now.items()))
