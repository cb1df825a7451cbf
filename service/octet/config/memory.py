"""How much memory there is for the server."""

import os
from functools import cache
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


@cache
def total_memory() -> int:
    """Bytes of the machine's memory, or of what the process's control group may use if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *group_limits(_CGROUPS, _OWN)])


def group_limits(root: Path, own: Path) -> list[int]:
    """The limits of a process's control group and of those around it, in bytes; version 1 or 2.

    Args:
        root: where control groups are mounted.
        own: the file that says which ones the process is in.
    """
    limits = []
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = base / path.lstrip("/")
        # In a container the path is often one outside, and the group itself is mounted as the root.
        for place in (group, *group.parents):
            if place == base or base in place.parents:
                text = _read(place / name).strip()
                if text.isdecimal():
                    limits.append(int(text))
    return limits


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
