"""The folder of an engine's sockets: made, used and gone, or left to the environment and to vLLM."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import os
from octet.engine.vllm.launch import sockets
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


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with room for a socket's path, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


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


def test_a_new_start_clears_what_dead_ones_left_and_nothing_else(
    environment: dict[str, str], short_path: Path
) -> None:
    environment |= {"TMPDIR": str(short_path)}
    waiting = PROGRAM + "print('ready', flush=True)\ninput()\n"
    dead, live = (
        subprocess.Popen(
            [sys.executable, "-c", waiting],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    )
    folders = []
    for process in (dead, live):
        assert process.stdout is not None
        folders.append(Path(process.stdout.readline().strip()))
        assert process.stdout.readline() == "ready\n"
    others = [short_path / "octet-demo-1", short_path / "mine"]
    for other in others:
        other.mkdir()
    dead.kill()
    dead.wait()
    memory = [
        Path("/dev/shm", name.format(folder.name)) for folder in folders for name in ("{}-1", "sem.{}-1")
    ]
    for file in memory:
        file.touch()
    assert folders[0].exists()
    folder_of_process(environment)
    assert not folders[0].exists()
    assert [file.exists() for file in memory] == [False, False, True, True]
    assert sorted(short_path.iterdir()) == sorted([folders[1], *others])
    live.communicate("\n")
    assert not any(file.exists() for file in memory)
    assert sorted(short_path.iterdir()) == sorted(others)
