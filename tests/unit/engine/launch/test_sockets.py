"""The folder of an engine's sockets: made, used and gone, or left to the environment and to vLLM."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
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


WAITING = PROGRAM + "print('ready', flush=True)\ninput()\n"


def waiting(environment: dict[str, str]) -> tuple["subprocess.Popen[str]", Path]:
    """A process that has a folder, and lives until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert process.stdout.readline() == "ready\n"
    return process, folder


def shared_by(folder: Path) -> list[Path]:
    """Files in shared memory that are its engine's."""
    files = [Path("/dev/shm", name.format(folder.name)) for name in ("{}-1", "sem.{}-1")]
    for file in files:
        file.touch()
    return files


def test_nothing_is_left_of_a_process_that_is_killed(environment: dict[str, str], short_path: Path) -> None:
    """Also where whoever kills it sends signals to all of its processes before."""
    other = short_path / "octet-like"
    other.mkdir()
    process, folder = waiting(environment | {"TMPDIR": str(short_path)})
    [shell] = psutil.Process(process.pid).children()
    memory = shared_by(folder)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        shell.send_signal(number)
    process.kill()
    process.communicate()
    assert psutil.wait_procs([shell], timeout=10)[1] == []
    assert not folder.exists()
    assert [file for file in memory if file.exists()] == []
    assert list(short_path.iterdir()) == [other]


def test_a_new_start_clears_what_dead_ones_left_and_nothing_else(
    environment: dict[str, str], short_path: Path
) -> None:
    environment |= {"TMPDIR": str(short_path)}
    (dead, dead_folder), (live, live_folder) = waiting(environment), waiting(environment)
    others = [short_path / "octet-demo-1", short_path / "mine"]
    for other in others:
        other.mkdir()
    # Nobody is left to clear up behind it.
    for shell in psutil.Process(dead.pid).children():
        shell.kill()
    dead.kill()
    dead.communicate()
    memory = shared_by(dead_folder) + shared_by(live_folder)
    assert dead_folder.exists()
    folder_of_process(environment)
    assert not dead_folder.exists()
    assert [file.exists() for file in memory] == [False, False, True, True]
    assert sorted(short_path.iterdir()) == sorted([live_folder, *others])
    live.communicate("\n")
    assert not any(file.exists() for file in memory)
    assert sorted(short_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("limit", [0, 100])
def test_without_room_for_temporary_files_a_start_says_so(environment: dict[str, str], limit: int) -> None:
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from octet.engine.vllm.launch import folders
from octet.errors import StartupError
try:
    folders.make()
except StartupError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("no temporary files can be written (")
    assert said.endswith("; set TMPDIR to a folder on a disk with room\n")
    assert said.count("\n") == 1
