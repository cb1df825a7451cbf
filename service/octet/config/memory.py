"""How much memory there is for the server, how much is free, and whether the kernel has killed for it."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
PROC = Path("/proc")


@cache
def total_memory() -> int:
    """Bytes of the machine's memory, or of what the process's control group may use if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *group_limits(CGROUPS, _OWN)])


def available_memory(root: Path = CGROUPS, own: Path = _OWN, proc: Path = PROC) -> int:
    """Bytes that processes can still take, of the machine or, if that is less, of a control group.

    Args:
        root: where control groups are mounted.
        own: the file that says which ones the process is in.
        proc: where the kernel says what the machine has.
    """
    machine = int(_numbers(proc / "meminfo").get("MemAvailable", 0)) * 1024
    return min([machine, *_free_in_groups(root, own)])


def memory_kills(root: Path = CGROUPS, own: Path = _OWN, proc: Path = PROC) -> int:
    """How many processes the kernel has killed for want of memory: of the control group, else of the machine.

    Only what it grows by means something. The arguments are those of `available_memory`.
    """
    for group, is_second in _groups(root, own):
        kills = _numbers(group / ("memory.events" if is_second else "memory.oom_control")).get("oom_kill")
        if kills is not None:
            return kills
    return _numbers(proc / "vmstat").get("oom_kill", 0)


def group_limits(root: Path, own: Path) -> list[int]:
    """The limits of a process's control group and of those around it, in bytes; version 1 or 2.

    Args:
        root: where control groups are mounted.
        own: the file that says which ones the process is in.
    """
    limits = (_number(group / _LIMITS[is_second]) for group, is_second in _groups(root, own))
    return [limit for limit in limits if limit is not None]


_LIMITS = {True: "memory.max", False: "memory.limit_in_bytes"}
_USES = {True: "memory.current", False: "memory.usage_in_bytes"}
# Of what is used, what the kernel takes back where it is needed: files that were read some time ago.
_SPARE = {True: "inactive_file", False: "total_inactive_file"}


def _free_in_groups(root: Path, own: Path) -> Iterator[int]:
    """What each control group with a limit has left of it."""
    for group, is_second in _groups(root, own):
        limit, used = _number(group / _LIMITS[is_second]), _number(group / _USES[is_second])
        if limit is not None and used is not None:
            spare = _numbers(group / "memory.stat").get(_SPARE[is_second], 0)
            yield max(0, limit - used + spare)


def _groups(root: Path, own: Path) -> Iterator[tuple[Path, bool]]:
    """A process's control group and those around it, and whether they are of version 2."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        group = base / path.lstrip("/")
        # In a container the path is often one outside, and the group itself is mounted as the root.
        for place in (group, *group.parents):
            if place == base or base in place.parents:
                yield place, not controllers


def _number(path: Path) -> int | None:
    """The number that a file holds; None where there is no such file, or a word in it."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _numbers(path: Path) -> dict[str, int]:
    """What a file of names and numbers says, such as "MemFree:  123 kB" and "oom_kill 0"."""
    words = (line.split() for line in _read(path).splitlines())
    return {
        name.rstrip(":"): int(value)
        for name, value, *_ in (w for w in words if len(w) > 1)
        if value.isdecimal()
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
