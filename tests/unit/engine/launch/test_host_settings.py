"""What machines compare before they start together, by vLLM's own arguments."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from octet import demo
from octet.engine.vllm.launch import parallel
from octet.engine.vllm.launch.hosts.settings import common_settings


def settings(model: Path | str = demo.PATH, **flags: Any) -> dict[str, str]:
    from vllm.engine.arg_utils import AsyncEngineArgs

    return common_settings(AsyncEngineArgs(model=str(model), **{"nnodes": 2, **flags}))


def differing(**flags: Any) -> set[str]:
    one, other = settings(), settings(**flags)
    return {name for name in one if one[name] != other[name]}


@pytest.mark.parametrize(
    "flags",
    [
        {"tensor_parallel_size": 4},
        {"pipeline_parallel_size": 4},
        {"max_model_len": 512},
        {"enforce_eager": True},
        {"dtype": "float32"},
        {"nnodes": 3},
        {"seed": 7},
        {"max_num_seqs": 3},
        {"enable_lora": True},
        {"kv_cache_dtype": "fp8"},
        {"compilation_config": {"mode": 0}},
        {"revision": "other"},
        {"quantization": "octet_fp8"},
    ],
)
def test_what_concerns_the_model_has_to_be_the_same(flags: dict[str, Any]) -> None:
    assert differing(**flags) == {f"--{name.replace('_', '-')}" for name in flags}


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"node_rank": 1},
        {"master_addr": "head"},
        {"served_model_name": "other"},
        {"kv_cache_memory_bytes": 1 << 30},
        {"hf_token": "secret"},
        {"disable_log_stats": True},
    ],
)
def test_what_is_a_machines_own_may_differ(flags: dict[str, Any]) -> None:
    assert differing(**flags) == set()
    assert "secret" not in str(settings(**flags))


def test_a_model_is_its_contents_wherever_it_lies(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(demo.PATH, copy)
    (copy / "README.md").write_text("mine")
    assert settings(copy) == settings()
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert differing(model=copy) == {"the model"}


def test_a_hub_id_is_compared_with_its_revision() -> None:
    assert settings("org/one")["the model"] == "org/one (main)"
    assert settings("org/one", revision="v2")["the model"] == "org/one (v2)"


def test_octets_switch_has_to_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings()
    monkeypatch.setenv("OCTET_KERNELS", "off")
    after = settings()
    assert {name for name in before if before[name] != after[name]} == {"OCTET_KERNELS"}


def test_ranks_wait_for_each_other_as_long_as_machines_do() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    engine = AsyncEngineArgs(model="any", distributed_timeout_seconds=7)
    parallel.limit_waiting(engine, 0.5)
    assert (engine.distributed_timeout_seconds, engine.cpu_distributed_timeout_seconds) == (7, 1)
