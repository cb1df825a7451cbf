"""Which cores the model computes on."""

import logging
import os
from typing import Any

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils import cpu_resource_utils

from octet.engine.vllm.launch import threads
from octet.engine.vllm.launch.threads import Cpu
from octet.errors import StartupError


def machine(cores: int, threads_per_core: int = 1, nodes: int = 1) -> list[Cpu]:
    """A machine whose cores' second threads are numbered behind all the first ones."""
    each = cores // nodes
    return [
        Cpu(thread * cores + core, core % each, core // each)
        for thread in range(threads_per_core)
        for core in range(cores)
    ]


@pytest.mark.parametrize(
    ("cpus", "chosen"),
    [
        (machine(1), [0]),
        (machine(2), [0, 1]),
        (machine(4), [0, 1, 2, 3]),
        (machine(2, threads_per_core=2), [2, 3]),
        (machine(4, nodes=2), [0, 1, 2, 3]),
        (machine(8)[6:], [6, 7]),
        (machine(8), None),
        (machine(8, threads_per_core=2, nodes=2), None),
    ],
)
def test_few_cores_are_all_used(cpus: list[Cpu], chosen: list[int] | None) -> None:
    assert threads.choose_cores(cpus) == chosen


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu_resource_utils, "get_allowed_cpu_list", lambda: machine(2))
    return monkeypatch


def binding(**flags: Any) -> str | None:
    """What an engine that is started with these flags finds in its environment."""
    with threads.bound(AsyncEngineArgs(model="m", **flags)):
        return os.environ.get(threads.BINDING)


def test_binds_for_as_long_as_the_engine_starts(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger=threads.__name__):
        assert binding() == "0,1"
    assert threads.BINDING not in os.environ
    assert "computing on all 2 cores (VLLM_CPU_OMP_THREADS_BIND=0,1)" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_CPU_OMP_THREADS_BIND", "1"),
        ("VLLM_CPU_OMP_THREADS_BIND", "auto"),
        ("VLLM_CPU_NUM_OF_RESERVED_CPU", "1"),
    ],
)
def test_what_the_user_has_chosen_stays(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    assert binding() == (value if name == threads.BINDING else None)
    assert os.environ[name] == value


@pytest.mark.parametrize(
    ("ranks", "shares"),
    [
        (2, "8,9,10,11|12,13,14,15"),
        (3, "8,9|10,11|12,13"),
        (8, "8|9|10|11|12|13|14|15"),
    ],
)
def test_ranks_have_cores_of_their_own(environment: pytest.MonkeyPatch, ranks: int, shares: str) -> None:
    environment.setattr(cpu_resource_utils, "get_allowed_cpu_list", lambda: machine(8, 2, nodes=2))
    environment.setattr(cpu_resource_utils, "get_visible_memory_node", lambda: [0])
    assert binding(tensor_parallel_size=ranks) == shares


def test_nodes_are_shared_out_by_vllm(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(cpu_resource_utils, "get_allowed_cpu_list", lambda: machine(8, 2, nodes=2))
    environment.setattr(cpu_resource_utils, "get_visible_memory_node", lambda: [0, 1])
    assert binding(tensor_parallel_size=2) is None


def test_more_ranks_than_cores(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(cpu_resource_utils, "get_visible_memory_node", lambda: [0])
    with pytest.raises(StartupError, match=r"^3 ranks need a core each, and there are 2"):
        binding(tensor_parallel_size=3)


def test_many_cores_are_left_to_vllm(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(cpu_resource_utils, "get_allowed_cpu_list", lambda: machine(16))
    assert binding() is None
