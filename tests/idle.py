"""Time as a promise about waiting is measured, on a machine that may have other things to do."""

import os
from pathlib import Path


def idle_seconds() -> float:
    """For how long this machine has had nothing to do, each of its cores on average.

    A program that waits for longer than it promised leaves the machine idle meanwhile. One that is kept
    waiting by other programs does not: against a clock, its promise would be broken by them.
    """
    lines = Path("/proc/stat").read_text().splitlines()
    cores = [line.split() for line in lines if line.startswith("cpu") and not line.startswith("cpu ")]
    ticks = sum(int(idle) for _, _user, _nice, _system, idle, *_ in cores)
    return ticks / os.sysconf("SC_CLK_TCK") / len(cores)
