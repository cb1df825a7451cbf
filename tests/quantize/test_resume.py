"""A run that was interrupted goes on; whatever happens, the destination is whole or not there."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from octet.quantize import writer
from octet.quantize.errors import QuantizeError
from octet.quantize.journal import Journal
from octet.quantize.options import Format
from octet.quantize.pieces import Files, Piece
from tests.quantize.conftest import GOLDEN, Quantize

SOURCE = GOLDEN / "llama-float16-tied/source"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def expected(tmp_path: Path, quantize: Quantize) -> dict[str, bytes]:
    """What an undisturbed run makes."""
    quantize(SOURCE, tmp_path / "expected")
    files = contents(tmp_path / "expected")
    shutil.rmtree(tmp_path / "expected")
    return files


@pytest.fixture
def processed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that are worked on, with every piece."""
    names: list[str] = []
    real = Files.process

    def process(self: Files, piece: Piece) -> None:
        names.append(piece.tensor.source.name)
        real(self, piece)

    monkeypatch.setattr(Files, "process", process)
    return names


def stop_after(number: int, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes the main thread meet `error` when `number` pieces are done."""
    real = writer._take
    done = 0

    def take(*arguments: object) -> None:
        nonlocal done
        if done == number:
            raise error
        done += 1
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "_take", take)


@pytest.mark.parametrize("number", [0, 1, 5, 11, 17])
def test_goes_on_after_ctrl_c_without_doing_work_twice(
    tmp_path: Path,
    quantize: Quantize,
    expected: dict[str, bytes],
    processed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(number, patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            quantize(SOURCE, tmp_path / "made", workers=1)
    assert not (tmp_path / "made").exists()
    total = sum(len(load_file(path)) for path in SOURCE.glob("*.safetensors"))
    processed.clear()
    quantize(SOURCE, tmp_path / "made", workers=1)
    assert contents(tmp_path / "made") == expected
    assert len(processed) == total - number
    assert os.listdir(tmp_path) == ["made"]


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from octet.quantize import writer
from octet.quantize.checkpoint import quantize_checkpoint
from octet.quantize.options import Options
from octet.quantize.source import open_source
real, real_note, number = writer._take, writer._note, int(sys.argv[3])
noted = threading.Event()
def note(*arguments):
    real_note(*arguments)
    noted.set()
def take(*arguments):
    global number
    if number == 0:
        noted.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    number -= 1
    real(*arguments)
writer._take, writer._note = take, note
writer._FLUSH_BYTES = 1000
quantize_checkpoint(open_source(sys.argv[1]), Path(sys.argv[2]), Options(), lambda name, size: lambda done:
None)
"""


def test_goes_on_after_it_was_killed(
    tmp_path: Path, quantize: Quantize, expected: dict[str, bytes], processed: list[str]
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, SOURCE, tmp_path / "made", "10"])
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "made").exists()
    quantize(SOURCE, tmp_path / "made")
    assert contents(tmp_path / "made") == expected
    # Some of the ten tensors that were done had been noted: how many depends on the disk.
    assert 0 < len(processed) < sum(len(load_file(path)) for path in SOURCE.glob("*.safetensors"))


@pytest.mark.parametrize("change", ["options", "source"])
def test_work_of_another_kind_is_not_used(
    tmp_path: Path, quantize: Quantize, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source)
    with monkeypatch.context() as patch:
        stop_after(15, patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "made", workers=1, weights=Format.E5M2)
    if change == "source":
        path = source / "model-00001-of-00003.safetensors"
        weights = {name: weight / 2 for name, weight in load_file(path).items()}
        save_file(weights, path, metadata={"format": "pt"})
    formats = {"weights": Format.E5M2 if change == "source" else Format.E4M3}
    quantize(source, tmp_path / "made", **formats)
    quantize(source, tmp_path / "afresh", **formats)
    assert contents(tmp_path / "made") == contents(tmp_path / "afresh")


def test_a_journal_that_was_cut_off_is_used_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, "this") as journal:
        assert not journal.resumed
        journal.record("shard", ["a", "b"])
    path.write_bytes(path.read_bytes()[:-5])
    with Journal(path, "this") as journal:
        assert journal.resumed
        assert [journal.has("shard", name) for name in "abc"] == [True, False, False]
        journal.record("shard", ["c"])
    with Journal(path, "this") as journal:
        assert [journal.has("shard", name) for name in "abc"] == [True, False, True]
    with Journal(path, "other") as journal:
        assert not journal.resumed
        assert not journal.has("shard", "a")


def test_a_journal_that_is_damaged_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"identity": "this"}\nnot json\n')
    with Journal(path, "this") as journal:
        assert not journal.resumed


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "journal", "this"),
        pytest.raises(QuantizeError, match="another octet quantize is at work"),
    ):
        Journal(tmp_path / "journal", "this")
