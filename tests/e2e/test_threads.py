"""The cores that the engine's worker really computes on."""

import os

import psutil  # type: ignore[import-untyped]
import pytest

from octet.engine.vllm.launch.threads import BINDING, FEW_CORES
from octet.engine.vllm.serving.engine import VllmEngine

CORES = os.sched_getaffinity(0)


@pytest.mark.skipif(len(CORES) > FEW_CORES, reason="vLLM chooses the cores of larger machines")
@pytest.mark.skipif(BINDING in os.environ, reason=f"{BINDING} chooses the cores")
@pytest.mark.asyncio(loop_scope="session")
async def test_the_worker_computes_on_all_cores(engine: VllmEngine) -> None:
    assert await engine.num_unfinished() == 0
    bound: set[int] = set()
    for process in psutil.Process().children(recursive=True):
        if "VLLM" in " ".join(process.cmdline()):
            for thread in process.threads():
                affinity = os.sched_getaffinity(thread.id)
                # OpenMP's threads are bound to a core each; all others may run anywhere.
                if len(affinity) < len(CORES):
                    bound |= affinity
    assert bound == CORES
