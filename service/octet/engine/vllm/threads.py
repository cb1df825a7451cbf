"""Which cores vLLM computes on, where there are few."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

logger = logging.getLogger(__name__)

BINDING = "VLLM_CPU_OMP_THREADS_BIND"

# Whoever has set one of these has chosen.
_VARIABLES = (BINDING, "VLLM_CPU_NUM_OF_RESERVED_CPU")

FEW_CORES = 4
"""vLLM keeps one core free for its scheduler: half of two, a quarter of four. Of more cores it is a small
share, and left to vLLM."""


class Cpu(Protocol):
    """A logical CPU."""

    id: int
    physical_core: int
    numa_node: int


def choose_cores(cpus: Iterable[Cpu]) -> list[int] | None:
    """One logical CPU of every core, the last, as vLLM chooses; None where vLLM may leave one free."""
    cores: dict[tuple[int, int], int] = {}
    for cpu in cpus:
        core = (cpu.numa_node, cpu.physical_core)
        cores[core] = max(cpu.id, cores.get(core, cpu.id))
    return sorted(cores.values()) if len(cores) <= FEW_CORES else None


@contextmanager
def bound(engine: "AsyncEngineArgs") -> Iterator[None]:
    """On a small machine, has an engine of one worker that is started inside compute on all cores.

    Unless the environment says which ones.
    """
    from vllm.platforms import current_platform
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list

    workers = engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size
    chosen = any(name in os.environ for name in _VARIABLES)
    if chosen or workers > 1 or not current_platform.is_cpu():
        yield
        return
    cores = choose_cores(get_allowed_cpu_list())
    if cores is None:
        yield
        return
    binding = ",".join(map(str, cores))
    logger.info("computing on all %d cores (%s=%s); set it to choose others", len(cores), BINDING, binding)
    os.environ[BINDING] = binding
    try:
        yield
    finally:
        del os.environ[BINDING]
