"""Which cores ranks get, and when a model runs eagerly: with vLLM's own arguments, on made-up machines."""

import os
from typing import Any

import pytest

from octet.engine.vllm import parallel
from octet.errors import StartupError


def arguments(**settings: Any) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs

    return AsyncEngineArgs(model="any", **settings)


@pytest.mark.parametrize(
    ("settings", "ranks"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 4}, 4),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, 8),
        ({"tensor_parallel_size": 4, "nnodes": 2}, 2),
        ({"tensor_parallel_size": 2, "data_parallel_size": 3}, 6),
        ({"data_parallel_size": 4, "data_parallel_size_local": 2}, 2),
    ],
)
def test_ranks_of_this_machine(settings: dict[str, int], ranks: int) -> None:
    assert parallel.local_ranks(arguments(**settings)) == ranks


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two NUMA nodes with four cores of two threads each; the threads of core N are N and N + 8."""
    from vllm.utils import cpu_resource_utils as resources

    cpus = [
        resources.LogicalCPUInfo(id=cpu, physical_core=cpu % 8, numa_node=cpu % 8 // 4) for cpu in range(16)
    ]
    monkeypatch.setattr(resources, "get_allowed_cpu_list", lambda: cpus)
    monkeypatch.setattr(resources, "get_visible_memory_node", lambda: [0, 1])
    monkeypatch.setenv(parallel.BINDING, "auto")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("ranks", "binding"),
    [
        (1, "auto"),
        (2, "auto"),
        (3, "8,9|10,11|12,13"),
        (4, "8,9|10,11|12,13|14,15"),
        (8, "8|9|10|11|12|13|14|15"),
    ],
)
def test_ranks_share_the_cores_where_nodes_are_too_few(ranks: int, binding: str) -> None:
    parallel.prepare(arguments(tensor_parallel_size=ranks))
    assert os.environ[parallel.BINDING] == binding


@pytest.mark.usefixtures("machine")
def test_a_binding_that_is_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parallel.BINDING, "0|0|0|0")
    parallel.prepare(arguments(tensor_parallel_size=4))
    assert os.environ[parallel.BINDING] == "0|0|0|0"


@pytest.mark.usefixtures("machine")
def test_more_ranks_than_cores() -> None:
    with pytest.raises(StartupError, match=r"^9 ranks need a core each, and there are 8"):
        parallel.prepare(arguments(tensor_parallel_size=9))


def test_without_a_compiler_models_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    from octet.engine.vllm.args import _choose_mode

    monkeypatch.setenv("CXX", "/no/such/compiler")
    plain, asked = arguments(), arguments(compilation_config={"mode": 1})
    _choose_mode(plain)
    _choose_mode(asked)
    assert plain.enforce_eager
    assert not asked.enforce_eager
    monkeypatch.setenv("CXX", "/bin/sh")
    compiling = arguments()
    _choose_mode(compiling)
    assert not compiling.enforce_eager
