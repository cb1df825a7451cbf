"""Weight files that are none, or not whole."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from octet.weight_files import check_weight_file
from octet.weight_index import CheckpointError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file of two tensors."""
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros((4, 8), np.float32), "b": np.ones(3, np.int8)}, path)
    return path


def header(entries: object, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(*ends: int, dtype: str = "U8", shape: tuple[int, ...] = (4,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(ends)}


def test_a_whole_file_is_right(whole: Path) -> None:
    check_weight_file(whole)


@pytest.mark.parametrize("share", [0.999, 0.5])
def test_a_file_that_is_cut_off(whole: Path, share: float) -> None:
    data = whole.read_bytes()
    for length in (len(data) - 1, int(len(data) * share), 60, 9):
        whole.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is cut off") as raised:
            check_weight_file(whole)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"1234", "does not begin with the length of a header"),
        (b"\xff" * 4096, "does not begin with the length of a header"),
        (b"<!DOCTYPE html><html>not found</html>", "does not begin with the length of a header"),
        (POINTER, "is a pointer of Git LFS"),
        ((64).to_bytes(8, "little") + b"\xfe" * 64, "its header is not JSON"),
        ((64).to_bytes(8, "little") + b"[" * 64, "its header is not JSON"),
        ((10**6).to_bytes(8, "little") + b"[" * 10**6, "its header is not JSON"),
        (header([]), "does not say where tensors lie"),
        (header({"a": 1}), "does not say where tensors lie"),
        (header({"a": {"dtype": "U8"}}), "does not say where tensors lie"),
        (header({"a": tensor(0, 4)}, b"1234" * 2), "goes on behind its end"),
        (header({"a": tensor(0, 4, dtype="U9")}, b"1234"), "is no safetensors file: "),
        (header({"a": tensor(0, 4, shape=(5,))}, b"1234"), "is no safetensors file: "),
        (header({"a": tensor(4, 8)}, b"1234" * 2), "is no safetensors file: "),
        (header({"a": tensor(0, 4), "b": tensor(2, 6)}, b"123456"), "is no safetensors file: "),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        check_weight_file(path)
    assert str(raised.value).startswith(f"{path} ")
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_of_pytorchs(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", os.urandom(1000))
    check_weight_file(path)
    data = path.read_bytes()
    path.write_bytes(b"\x80\x02}q\x00.")
    check_weight_file(path)
    for content, fault in (
        (data[:600], "is cut off"),
        (b"garbage", "is no file of PyTorch's"),
        (b"", "is empty"),
        (POINTER, "is a pointer of Git LFS"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=fault):
            check_weight_file(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        check_weight_file(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        check_weight_file(tmp_path / "other.safetensors")
