"""The folder of an engine's sockets: made, used and gone, or left to the environment and to vLLM."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from octet.engine.vllm import sockets
sockets.keep_together()
sockets.keep_together()
folder = os.environ.get("VLLM_RPC_BASE_PATH")
if folder and os.path.isdir(folder):
    open(os.path.join(folder, "left-behind"), "w").close()
print(folder)
"""


def folder_of_process(environment: dict[str, str]) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    return result.stdout.strip()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv("VLLM_RPC_BASE_PATH", raising=False)
    return dict(os.environ)


def test_the_folder_goes_with_the_process(environment: dict[str, str]) -> None:
    folder = Path(folder_of_process(environment))
    assert folder.name.startswith("octet-")
    assert not folder.exists()


def test_a_folder_that_the_environment_names_is_used_and_stays(
    environment: dict[str, str], tmp_path: Path
) -> None:
    assert folder_of_process(environment | {"VLLM_RPC_BASE_PATH": str(tmp_path)}) == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["left-behind"]


def test_a_path_too_long_for_a_socket_is_left_to_vllm(environment: dict[str, str], tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    assert folder_of_process(environment | {"TMPDIR": str(long)}) == "None"
    assert list(long.iterdir()) == []
