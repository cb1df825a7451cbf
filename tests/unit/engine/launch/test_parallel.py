"""How many ranks there are, and when a model runs eagerly, by vLLM's own arguments."""

from typing import Any

import pytest

from octet.engine.vllm.launch import parallel


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


@pytest.mark.parametrize(
    ("line", "ranks"),
    [
        ("", 1),
        ("model --max-model-len 8", 1),
        ("model --tensor-parallel-size 2", 2),
        ("model --tensor_parallel_size=2 --enforce-eager", 2),
        ("-tp 2 model", 2),
        ("-dp=3", 3),
        ("--pipeline-parallel-size 1", 1),
        ("--tensor-parallel-size", 1),
        ("--tensor-parallel-size two", 1),
    ],
)
def test_ranks_that_a_command_line_names(line: str, ranks: int) -> None:
    assert parallel.ranks_named(line.split()) == ranks


def test_without_a_compiler_models_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    from octet.engine.vllm.launch.args import _choose_mode

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
