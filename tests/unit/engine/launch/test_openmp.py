"""What vLLM tells the OpenMP of a rank, foreseen, and compared with what vLLM really does."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.platforms import current_platform
from vllm.utils import cpu_resource_utils, ompmultiprocessing

from octet.engine.vllm.launch import openmp, threads
from octet.engine.vllm.launch.threads import Cpu
from tests.unit.engine.launch.test_threads import machine

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="only CPUs have ranks of OpenMP's")

MACHINES = {
    "1": machine(1),
    "2": machine(2),
    "2x2": machine(2, threads_per_core=2),
    "4": machine(4),
    "4 of two nodes": machine(4, nodes=2),
    "8": machine(8),
    "8x2": machine(8, threads_per_core=2),
    "16x2 of two nodes": machine(16, threads_per_core=2, nodes=2),
    "the second node of two": machine(16, threads_per_core=2, nodes=2)[8:16],
}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts vLLM and Octet on another machine, in another environment."""

    def move(cpus: list[Cpu], **environment: str) -> None:
        nodes = sorted({cpu.numa_node for cpu in cpus})
        for name in (threads.BINDING, threads.RESERVED, "CPU_VISIBLE_MEMORY_NODES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LD_PRELOAD", "/torch/lib/libgomp.so.1:/vllm/libs/libtcmalloc.so")
        monkeypatch.setattr(cpu_resource_utils, "get_allowed_cpu_list", lambda: cpus)
        monkeypatch.setattr(cpu_resource_utils, "get_memory_affinity", lambda: nodes)
        monkeypatch.setattr(openmp, "_allowed_cpus", lambda: cpus)
        monkeypatch.setattr(openmp, "_allowed_nodes", lambda: nodes)

    return move


def told() -> dict[str, str]:
    """What vLLM tells the worker of an engine with one rank, started as Octet starts it."""
    parallel = SimpleNamespace(local_world_size=1, data_parallel_rank_local=None, _api_process_count=1)
    with threads.bound(
        SimpleNamespace(  # type: ignore[arg-type]
            tensor_parallel_size=1,
            pipeline_parallel_size=1,
            nnodes=1,
            data_parallel_size=1,
            data_parallel_size_local=1,
        )
    ):
        manager = ompmultiprocessing.OMPProcessManager(
            SimpleNamespace(parallel_config=parallel, kv_transfer_config=None)
        )
        with manager.configure_omp_envs(0, 0):
            return {name: os.environ[name] for name in openmp.VARIABLES if name in os.environ}


def foreseen(ranks: int = 1) -> dict[str, str]:
    variables = openmp.foreseen(ranks)
    return {name: value for name, value in variables.items() if name in openmp.VARIABLES}


@pytest.mark.parametrize("cpus", MACHINES.values(), ids=MACHINES.keys())
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {threads.BINDING: "auto"},
        {threads.BINDING: "nobind"},
        {threads.BINDING: "3,0-1"},
        {threads.RESERVED: "0"},
        {threads.RESERVED: "2"},
    ],
    ids=str,
)
def test_it_is_what_vllm_tells_a_single_rank(on: Any, cpus: list[Cpu], environment: dict[str, str]) -> None:
    on(cpus, **environment)
    assert foreseen() == told()


def test_a_node_that_the_user_has_chosen(on: Any) -> None:
    on(MACHINES["16x2 of two nodes"], CPU_VISIBLE_MEMORY_NODES="1")
    assert foreseen() == told() != {}


@pytest.mark.parametrize("environment", [{}, {threads.BINDING: "0,1|2,3"}], ids=str)
def test_several_ranks_are_told_different_things(on: Any, environment: dict[str, str]) -> None:
    on(machine(4), **environment)
    assert foreseen(ranks=2) == {}


def test_a_binding_for_several_ranks_is_none_for_one(on: Any) -> None:
    on(machine(4), **{threads.BINDING: "0,1|2,3"})
    assert foreseen() == {}


def test_libraries_that_the_user_preloads(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on(machine(2))
    monkeypatch.setenv("LD_PRELOAD", "/opt/libiomp5.so:/opt/libtcmalloc.so")
    assert openmp.foreseen(1) == {"LD_PRELOAD": "/opt/libiomp5.so:/opt/libtcmalloc.so"}, (
        "it is told otherwise"
    )


def test_what_is_preloaded_is_what_vllm_preloads() -> None:
    code = (
        "import json, os\n"
        "from octet.engine.vllm.launch import openmp\n"
        "mine = openmp.foreseen(2)\n"
        "from octet import demo\n"
        "from octet.engine.vllm.launch.args import parse_engine_args\n"
        "parse_engine_args([str(demo.PATH)]).engine.create_engine_config()\n"
        "print(json.dumps([mine.get('LD_PRELOAD'), os.environ.get('LD_PRELOAD')]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    mine, vllms = json.loads(done.stdout.splitlines()[-1])
    assert mine == vllms


@pytest.mark.parametrize(
    ("server", "rank", "suits"),
    [
        (("2", "0 1"), ("2", "0 1"), True),
        ((None, None), (None, None), True),
        (("2", "0 1"), ("1", "1"), True),
        ((None, None), ("1", "7"), True),
        (("2", "0 1"), (None, None), False),
        (("2", "0 1"), ("2", "2 3"), False),
        ((None, None), ("2", "0 1"), False),
        ((None, None), ("1", None), False),
        ((None, None), ("1", "0 1"), False),
    ],
)
def test_who_may_be_forked(server: tuple[str, str], rank: tuple[str, str], suits: bool) -> None:
    environments = [
        {
            name: value
            for name, value in zip(("OMP_NUM_THREADS", "GOMP_CPU_AFFINITY"), told, strict=True)
            if value
        }
        for told in (server, rank)
    ]
    assert openmp.suits(*environments) is suits


def test_the_machine_is_as_vllm_sees_it() -> None:
    mine = [(cpu.id, cpu.physical_core, cpu.numa_node) for cpu in openmp._allowed_cpus()]
    vllms = cpu_resource_utils.get_allowed_cpu_list()
    assert mine == [(cpu.id, cpu.physical_core, cpu.numa_node) for cpu in vllms]
    assert openmp._allowed_nodes() == cpu_resource_utils.get_memory_affinity()
