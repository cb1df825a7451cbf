"""Models of the hub quantized shard by shard, with huggingface_hub's own client and a hub on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.quantize.conftest import GOLDEN, Quantize
from tests.quantize.hub_server import Hub, serve
from tests.quantize.test_pickled import as_pickles

SOURCE, NAME = GOLDEN / "llama-float16-tied/source", "octet-tests/tiny-llama"
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    shutil.copytree(SOURCE, tmp_path / "hub")
    found = Hub(NAME, tmp_path / "hub")
    with serve(found):
        yield found


def start(hub: Hub, folder: Path, *flags: str) -> subprocess.Popen[str]:
    unset = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    environment = kept | {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}"}
    command = [sys.executable, "-m", "octet", "quantize", NAME, str(folder / "made"), *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(hub: Hub, folder: Path, *flags: str) -> tuple[int, str]:
    """Its exit status, and what it says of errors."""
    process = start(hub, folder, *flags)
    _, error = process.communicate(timeout=120)
    return process.returncode, error


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def work(tmp_path: Path) -> Path:
    return tmp_path / ".made.octet-quantize"


def test_one_shard_is_quantized_while_the_next_is_downloaded_and_no_other_is_here(
    tmp_path: Path, hub: Hub, quantize: Quantize
) -> None:
    """The second is not sent before the first one's result is there. Each is downloaded when the one before
    the last is gone, and --verify has seen them all.
    """
    there: dict[str, set[str]] = {}

    def look(file: str) -> None:
        there[file] = {path.name for path in work(tmp_path).glob("source/*.safetensors")}
        if file == SHARDS[1]:
            while not (work(tmp_path) / "checkpoint" / SHARDS[0]).exists():
                assert process.poll() is None

    hub.meanwhile = look
    process = start(hub, tmp_path, "--stream", "--verify")
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0
    assert all(line.startswith("octet: warning: model.layers.") for line in error.splitlines()), error
    assert "verified: every copied tensor is equal" in output
    assert (there[SHARDS[0]], there[SHARDS[1]]) == (set(), {SHARDS[0]})
    assert there[SHARDS[2]] <= {SHARDS[1]}  # which may be done before the third is asked for
    assert hub.downloads[-3:] == [(shard, 0) for shard in SHARDS]
    quantize(SOURCE, tmp_path / "expected")
    assert weights(tmp_path / "made") == weights(tmp_path / "expected")
    assert sorted(os.listdir(tmp_path)) == ["expected", "hf", "hub", "made"]
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
    card = (tmp_path / "made/README.md").read_text()
    assert f"`{NAME}` at revision `{hub.commit}`" in card


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, hub: Hub, quantize: Quantize) -> None:
    """A shard that is done is not downloaded again, one that is half here only to its end."""
    arrived, go_on = threading.Event(), threading.Event()

    def hold(file: str) -> None:
        if file == SHARDS[2]:
            arrived.set()
            go_on.wait(60)

    hub.meanwhile = hold
    process = start(hub, tmp_path, "--stream")
    assert arrived.wait(60)
    # The third is asked for when the second is read: the first is done, and its file on its way to the disk.
    while not (work(tmp_path) / "checkpoint" / SHARDS[1]).exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    go_on.set()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith("octet: interrupted; what is done so far lies in ")
    hub.downloads.clear()
    hub.meanwhile = lambda file: None
    assert run(hub, tmp_path, "--stream") == (0, "")
    assert {file for file, _ in hub.downloads if file.endswith(".safetensors")} == {SHARDS[2]}
    quantize(SOURCE, tmp_path / "expected")
    assert weights(tmp_path / "made") == weights(tmp_path / "expected")
    assert not work(tmp_path).exists()


def test_a_connection_that_is_cut_is_taken_up_again(tmp_path: Path, hub: Hub, quantize: Quantize) -> None:
    hub.cut[SHARDS[1]] = [700]
    code, _ = run(hub, tmp_path, "--stream")
    assert code == 0
    assert hub.downloads.count((SHARDS[1], 0)) == 2  # The client keeps whole chunks, of ten megabytes.
    quantize(SOURCE, tmp_path / "expected")
    assert weights(tmp_path / "made") == weights(tmp_path / "expected")


def test_a_shard_that_the_hub_has_not(tmp_path: Path, hub: Hub) -> None:
    """Said before anything is downloaded."""
    hub.gone.add(SHARDS[2])
    code, error = run(hub, tmp_path, "--stream")
    assert code == 1
    assert error.startswith(f"octet: error: {NAME}@{hub.commit}/{SHARDS[2]} cannot be downloaded: 404 ")
    assert error.count("\n") == 1
    assert not any(file.endswith(".safetensors") for file, _ in hub.downloads)
    assert not work(tmp_path).exists()


def test_a_shard_that_goes_away_meanwhile_is_fetched_by_the_next_run(tmp_path: Path, hub: Hub) -> None:
    def vanish(file: str) -> None:
        if file == SHARDS[1]:
            hub.gone.add(file)

    hub.meanwhile = vanish
    code, error = run(hub, tmp_path, "--stream")
    assert code == 1
    assert error.startswith(f"octet: error: {NAME}@{hub.commit}/{SHARDS[1]} cannot be downloaded: 404 ")
    assert error.count("\n") == 1
    hub.gone.clear()
    hub.downloads.clear()
    hub.meanwhile = lambda file: None
    assert run(hub, tmp_path, "--stream") == (0, "")
    assert [file for file, _ in hub.downloads if file.endswith(".safetensors")] == SHARDS[1:]


def test_a_branch_that_moves_between_two_runs_is_quantized_afresh(
    tmp_path: Path, hub: Hub, quantize: Quantize
) -> None:
    """No result is of two commits. While a run goes on, its files stay those of one commit."""
    shutil.copytree(SOURCE, tmp_path / "newer")
    for path in (tmp_path / "newer").glob("*.safetensors"):
        save_file({name: each / 2 for name, each in load_file(path).items()}, path, metadata={"format": "pt"})
    first = hub.commit

    def move(file: str) -> None:
        if file == SHARDS[0]:
            hub.push(tmp_path / "newer")
        if file == SHARDS[2] and hub.commit != first:
            hub.gone.add(file)

    hub.meanwhile = move
    code, error = run(hub, tmp_path, "--stream")
    assert code == 1
    assert f"{NAME}@{first}/{SHARDS[2]} cannot be downloaded" in error
    hub.gone.clear()
    hub.downloads.clear()
    hub.meanwhile = lambda file: None
    assert run(hub, tmp_path, "--stream") == (0, "")
    assert [file for file, _ in hub.downloads if file.endswith(".safetensors")] == SHARDS
    quantize(tmp_path / "newer", tmp_path / "expected")
    assert weights(tmp_path / "made") == weights(tmp_path / "expected")


def test_a_file_that_changes_under_its_name_is_an_error(tmp_path: Path, hub: Hub) -> None:
    """Its tensors would be taken from where they no longer lie."""

    def change(file: str) -> None:
        if file == SHARDS[0]:
            path = tmp_path / "hub" / SHARDS[1]
            save_file(load_file(path) | {"a": torch.zeros(3)}, path, metadata={"format": "pt"})

    hub.meanwhile = change
    code, error = run(hub, tmp_path, "--stream")
    assert code == 1
    said = f"octet: error: {NAME}@{hub.commit}/{SHARDS[1]} is not what it was when its header was read; "
    assert error.startswith(said)


def test_pickled_files_are_downloaded_whole_and_not_streamed(
    tmp_path: Path, hub: Hub, quantize: Quantize
) -> None:
    hub.push(as_pickles(SOURCE, tmp_path / "pickled"))
    code, error = run(hub, tmp_path, "--stream")
    assert code == 1
    assert error == (f"octet: error: {NAME} has no safetensors; torch's pickled files cannot be streamed\n")
    assert not any(file.endswith(".bin") for file, _ in hub.downloads)
    assert run(hub, tmp_path) == (0, "")
    quantize(SOURCE, tmp_path / "expected")
    assert weights(tmp_path / "made") == weights(tmp_path / "expected")
