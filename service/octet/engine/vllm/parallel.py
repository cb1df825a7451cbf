"""One model over several ranks: what vLLM leaves to be set on CPUs, and what it cannot do there.

The ranks themselves, their processes and what they say to one another are vLLM's.
"""

import logging
import os
from typing import TYPE_CHECKING

from octet.errors import StartupError

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

logger = logging.getLogger(__name__)

BINDING = "VLLM_CPU_OMP_THREADS_BIND"


def local_ranks(engine: "AsyncEngineArgs") -> int:
    """How many workers the engine will start on this machine."""
    ranks = engine.tensor_parallel_size * engine.pipeline_parallel_size // max(1, engine.nnodes)
    replicas = engine.data_parallel_size_local
    return max(1, ranks) * max(1, engine.data_parallel_size if replicas is None else replicas)


def prepare(engine: "AsyncEngineArgs") -> None:
    """Refuses what would end in a dead engine, and gives each rank on a CPU cores of its own.

    Raises:
        StartupError: with one line that names the flag.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    if engine.pipeline_parallel_size > 1 and engine.enforce_eager:
        # Later stages have no buffers for what earlier ones send; the first request would end the engine.
        raise StartupError(
            "--pipeline-parallel-size: vLLM on CPUs cannot run pipeline stages eagerly (--enforce-eager, or "
            "no C++ compiler); use --tensor-parallel-size"
        )
    ranks = local_ranks(engine)
    if ranks > 1 and os.environ.get(BINDING, "auto") == "auto":
        _bind_ranks(ranks)


def _bind_ranks(ranks: int) -> None:
    """Shares this machine's cores out where it has fewer NUMA nodes than ranks.

    vLLM by itself gives each rank a node, and stops where there are too few.
    """
    from vllm.utils import cpu_resource_utils

    if len(cpu_resource_utils.get_visible_memory_node()) >= ranks:
        return
    # The last thread of each core, as vLLM chooses; node by node, so that a rank's cores share memory.
    cores = {(cpu.numa_node, cpu.physical_core): cpu.id for cpu in cpu_resource_utils.get_allowed_cpu_list()}
    cpus = [cpu for _, cpu in sorted(cores.items())]
    each = len(cpus) // ranks
    if each == 0:
        raise StartupError(
            f"{ranks} ranks need a core each, and there are {len(cpus)}: lower --tensor-parallel-size or "
            f"--data-parallel-size, or set {BINDING} for them to share cores"
        )
    shares = [cpus[rank * each : (rank + 1) * each] for rank in range(ranks)]
    os.environ[BINDING] = "|".join(",".join(map(str, share)) for share in shares)
    logger.info("%s=%s: the cores of each of %d ranks", BINDING, os.environ[BINDING], ranks)
