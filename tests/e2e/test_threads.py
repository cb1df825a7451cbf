"""The cores that the engine's worker really computes on, and how it came to be there."""

import os

import psutil  # type: ignore[import-untyped]
import pytest

from octet.engine.vllm.launch.threads import BINDING, FEW_CORES
from octet.engine.vllm.serving.engine import VllmEngine

CORES = os.sched_getaffinity(0)

pytestmark = pytest.mark.asyncio(loop_scope="session")


def processes_of_engines(name: str) -> list[psutil.Process]:
    """Those that call themselves so, of all engines that tests have started."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if f"VLLM::{name}" in " ".join(process.cmdline())]


@pytest.mark.skipif(len(CORES) > FEW_CORES, reason="vLLM chooses the cores of larger machines")
@pytest.mark.skipif(BINDING in os.environ, reason=f"{BINDING} chooses the cores")
async def test_the_worker_computes_on_all_cores(engine: VllmEngine) -> None:
    assert await engine.num_unfinished() == 0
    bound: set[int] = set()
    for process in processes_of_engines(""):
        for thread in process.threads():
            affinity = os.sched_getaffinity(thread.id)
            # OpenMP's threads are bound to a core each; all others may run anywhere.
            if len(affinity) < len(CORES):
                bound |= affinity
    assert bound == CORES


async def test_core_and_worker_are_forked_off_a_process_without_threads(engine: VllmEngine) -> None:
    assert await engine.num_unfinished() == 0
    [core] = engine.llm.engine_core.resources.engine_manager.processes
    server = psutil.Process(core.pid).parent()
    assert "forkserver" in " ".join(server.cmdline())
    assert server.num_threads() == 1
    assert [p for p in processes_of_engines("Worker") if p.parent() == server]
