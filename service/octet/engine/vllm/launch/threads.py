"""Which cores vLLM computes on, where there are few."""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from octet.engine.vllm.launch import parallel
from octet.errors import StartupError

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

logger = logging.getLogger(__name__)

BINDING = "VLLM_CPU_OMP_THREADS_BIND"

RESERVED = "VLLM_CPU_NUM_OF_RESERVED_CPU"

FEW_CORES = 4
"""vLLM keeps one core free for its scheduler: half of two, a quarter of four. Of more cores it is a small
share, and left to vLLM."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """A logical CPU."""

    id: int
    physical_core: int
    numa_node: int


def is_chosen() -> bool:
    """Whether the user has chosen cores, or how many vLLM keeps free."""
    return BINDING in os.environ or RESERVED in os.environ


def listed(text: str, *, sort: bool = True) -> list[int]:
    """The numbers of a list such as "0-2,7"; none where it is something else."""
    numbers: list[int] = []
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if bounds is None:
            return []
        numbers += range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1)
    return sorted(set(numbers)) if sort else numbers


def choose_cores(cpus: Iterable[Cpu]) -> list[int] | None:
    """One logical CPU of every core; None where vLLM may leave one free."""
    cores = one_of_each_core(cpus)
    return sorted(cores) if len(cores) <= FEW_CORES else None


def share_cores(cpus: Iterable[Cpu], ranks: int) -> list[list[int]]:
    """Equal shares of the cores, one for each rank, of neighbours, so that a rank's cores share memory.

    Raises:
        StartupError: when there are fewer cores than ranks.
    """
    cores = one_of_each_core(cpus)
    each = len(cores) // ranks
    if each == 0:
        raise StartupError(
            f"{ranks} ranks need a core each, and there are {len(cores)}: lower --tensor-parallel-size or "
            f"--data-parallel-size, or set {BINDING} for them to share cores"
        )
    return [cores[rank * each : (rank + 1) * each] for rank in range(ranks)]


@contextmanager
def bound(engine: "AsyncEngineArgs") -> Iterator[None]:
    """Chooses the cores of an engine that is started inside, unless the environment says which ones.

    On a small machine one worker computes on all cores. Several ranks get cores of their own where there are
    fewer NUMA nodes than ranks: vLLM by itself gives each a node, and stops where there are too few.

    Raises:
        StartupError: when there are fewer cores than ranks.
    """
    binding = _choose_binding(engine)
    if binding is None:
        yield
        return
    os.environ[BINDING] = binding
    try:
        yield
    finally:
        del os.environ[BINDING]


def _choose_binding(engine: "AsyncEngineArgs") -> str | None:
    from vllm.platforms import current_platform
    from vllm.utils import cpu_resource_utils

    if is_chosen() or not current_platform.is_cpu():
        return None
    cpus = cpu_resource_utils.get_allowed_cpu_list()
    ranks = parallel.local_ranks(engine)
    if ranks > 1:
        if len(cpu_resource_utils.get_visible_memory_node()) >= ranks:
            return None
        binding = "|".join(",".join(map(str, share)) for share in share_cores(cpus, ranks))
        logger.info("sharing the cores out to %d ranks (%s=%s)", ranks, BINDING, binding)
        return binding
    cores = choose_cores(cpus)
    if cores is None:
        return None
    binding = ",".join(map(str, cores))
    logger.info("computing on all %d cores (%s=%s); set it to choose others", len(cores), BINDING, binding)
    return binding


def one_of_each_core(cpus: Iterable[Cpu]) -> list[int]:
    """The last logical CPU of every core, as vLLM chooses; node by node, core by core."""
    cores: dict[tuple[int, int], int] = {}
    for cpu in cpus:
        core = (cpu.numa_node, cpu.physical_core)
        cores[core] = max(cpu.id, cores.get(core, cpu.id))
    return [cpu for _, cpu in sorted(cores.items())]
