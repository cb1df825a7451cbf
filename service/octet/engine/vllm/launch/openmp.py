"""What vLLM will tell the OpenMP of a rank on CPUs: foreseen, so that the rank can be forked.

OpenMP's library reads its variables when it is loaded, which for a fork is when its server started, before
vLLM was imported. By them it binds every thread that it ever makes to a core. So the server gets what a
single rank on this machine will be told; whoever turns out to be told something else is not forked, unless it
computes on one core, where there are no threads to bind.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from octet.engine.vllm.launch import threads

_THREADS = "OMP_NUM_THREADS"
_CORES = "GOMP_CPU_AFFINITY"
_NODES = "CPU_VISIBLE_MEMORY_NODES"

PRELOAD = "LD_PRELOAD"

VARIABLES = {_THREADS, _CORES}
"""What differs from rank to rank; see `suits`."""

# Which OpenMP vLLM looks for among the preloaded libraries, and what it then says to it.
_LIBRARIES = ("libomp", "libgomp", "libiomp")


def foreseen(ranks: int) -> dict[str, str]:
    """The variables that vLLM sets for the worker of an engine with so many ranks on this machine.

    Without binding where there are several ranks, which differ, and where nobody can tell.
    """
    libraries = _preloaded()
    variables = {PRELOAD: libraries} if libraries else {}
    cores = _cores_of_a_single_rank() if ranks == 1 and "libgomp" in libraries else []
    if cores:
        variables |= {_THREADS: str(len(cores)), _CORES: " ".join(map(str, cores))}
    return variables


def suits(server: Mapping[str, str], rank: Mapping[str, str]) -> bool:
    """Whether a rank may be forked off a server, by the environments of both."""
    if rank.get(_THREADS) == "1" and rank.get(_CORES, "").isdecimal():
        return True
    return all(server.get(name) == rank.get(name) for name in VARIABLES)


def bind() -> None:
    """Binds a rank that was just forked as OpenMP's library does when it is loaded in its environment."""
    if (first := re.match(r"\s*(\d+)", os.environ.get(_CORES, ""))) is None:
        return
    os.sched_setaffinity(0, {int(first[1])})
    if os.environ.get(_THREADS) == "1":
        import torch

        torch.set_num_threads(1)


def _cores_of_a_single_rank() -> list[int]:
    """The cores that a single rank will be bound to; none where it will not be, or where nobody can tell."""
    binding = os.environ.get(threads.BINDING, "auto")
    if binding != "auto":
        return threads.listed(binding)
    cpus = _allowed_cpus()
    if not threads.is_chosen() and (chosen := threads.choose_cores(cpus)) is not None:
        return chosen
    nodes = _visible_nodes()
    if not nodes or "VLLM_CPU_SIM_MULTI_NUMA" in os.environ:
        return []
    # vLLM's own choice: a logical CPU of every core of the first node, but for those that it keeps free.
    cores = threads.one_of_each_core(cpu for cpu in cpus if cpu.numa_node == nodes[0])
    free = threads.listed(os.environ.get(threads.RESERVED, "1"))
    if len(free) != 1:
        return []
    return sorted(cores)[: -free[0] or None] if len(cores) > free[0] else sorted(cores)


def _allowed_cpus() -> list[threads.Cpu]:
    """The logical CPUs that this process may use, and their cores as `lscpu` has them; none without it."""
    command = ["lscpu", "--json", "--extended=CPU,CORE,NODE", "--online"]
    try:
        told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        # A machine without nodes has a dash there, which is no JSON.
        entries = json.loads(re.sub(r'("node":\s*)-', r"\g<1>0", told))["cpus"]
        cpus = [threads.Cpu(entry["cpu"], entry["core"], entry["node"]) for entry in entries]
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError, TypeError):
        return []
    allowed = os.sched_getaffinity(0)
    return [cpu for cpu in cpus if cpu.id in allowed]


def _visible_nodes() -> list[int]:
    allowed = _allowed_nodes()
    visible = os.environ.get(_NODES)
    return [node for node in threads.listed(visible, sort=False) if node in allowed] if visible else allowed


def _allowed_nodes() -> list[int]:
    status = Path("/proc/self/status").read_text()
    nodes = re.search(r"^Mems_allowed_list:\s*(\S+)", status, re.MULTILINE)
    return threads.listed(nodes[1]) if nodes else []


def _preloaded() -> str:
    """LDPRELOAD as vLLM's platform for CPUs makes it: torch's OpenMP, and before it vLLM's allocator."""
    libraries = os.environ.get(PRELOAD, "")
    if not any(name in libraries for name in _LIBRARIES):
        torch = _folder("torch")
        openmp = _first([torch.parent / "torch.libs", torch / "lib"], "libgomp*.so*")
        libraries = ":".join(filter(None, (libraries, openmp)))
    if "libtcmalloc" not in libraries:
        folder = [_folder("vllm") / "libs"]
        allocator = _first(folder, "libtcmalloc_minimal*.so*") or _first(folder, "libtcmalloc.so*")
        libraries = ":".join(filter(None, (allocator, libraries)))
    return libraries


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _first(folders: list[Path], pattern: str) -> str:
    return next((str(found) for folder in folders for found in folder.glob(pattern)), "")
