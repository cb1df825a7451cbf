"""How much memory an engine's caches take by default."""

from pathlib import Path
from typing import Any

import pytest

from octet import demo
from octet.engine.vllm.launch import caches
from octet.engine.vllm.launch.caches import GIB, kv_cache_bytes, pictures_gib, weight_bytes


@pytest.mark.parametrize(
    ("free", "weights", "pictures", "ranks", "expected"),
    [
        (64, 14, 4, 1, 4),
        (64, 14, 4, 2, 4),
        (12, 1, 0.75, 1, 3),
        (12, 1, 0.75, 2, 1.5),
        # A container of 3 GiB, on whatever machine.
        (3, 0.25, 0.19, 1, 0.75),
        # Beside the weights there is little left.
        (16, 13, 1, 1, 1),
        (16, 13, 0, 2, 0.75),
        (16, 15.5, 1, 1, 0.5),
        (16, 40, 1, 1, 0.5),
    ],
)
def test_the_kv_cache_fits_beside_weights_and_pictures(
    free: float, weights: float, pictures: float, ranks: int, expected: float
) -> None:
    size = kv_cache_bytes(int(free * GIB), int(weights * GIB), pictures * GIB, ranks)
    assert size == int(expected * GIB)


@pytest.mark.parametrize(("free", "expected"), [(512, 4), (24, 1.5), (3, 0.19), (0.5, 0.12)])
def test_the_cache_of_pictures_is_a_share_of_free_memory(
    free: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "available_memory", lambda: int(free * GIB))
    assert pictures_gib(1) == expected
    assert pictures_gib(2) == 1.0, "what another machine chooses, too"


def test_weights_are_those_that_would_be_loaded(tmp_path: Path) -> None:
    assert weight_bytes(str(tmp_path)) == 0
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (tmp_path / name).write_bytes(b"x" * 100)
    assert weight_bytes(str(tmp_path)) == 200
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    assert weight_bytes(str(tmp_path)) == 100
    assert weight_bytes("no/such-model") == 0


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command line on a machine with 8 GiB of free memory comes to."""
    from octet.engine.vllm.launch.args import parse_engine_args

    monkeypatch.setattr(caches, "available_memory", lambda: 8 * GIB)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    return lambda *flags: parse_engine_args([str(demo.PATH), *flags]).engine


def test_flags_decide(parsed: Any) -> None:
    """What the user names stands, vLLM's own default included."""
    assert (engine := parsed()).mm_processor_cache_gb == 0.5
    assert engine.kv_cache_memory_bytes == 2 * GIB
    assert parsed("--mm-processor-cache-gb", "4").mm_processor_cache_gb == 4
    assert parsed("--mm-processor-cache-gb", "0").mm_processor_cache_gb == 0
    assert parsed("--kv-cache-memory-bytes", "100M").kv_cache_memory_bytes == 100 * 2**20
    assert parsed("--gpu-memory-utilization", "0.5").kv_cache_memory_bytes is None
