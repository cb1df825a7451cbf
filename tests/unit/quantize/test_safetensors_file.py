from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from octet.quantize.errors import QuantizeError
from octet.quantize.safetensors_file import lay_out, read_header


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(7.0),
        "empty": torch.empty((0, 4), dtype=torch.float16),
    }
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    header = read_header(tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    assert header.metadata == {"format": "pt"}
    assert header.file_size == len(data)
    assert {tensor.name for tensor in header.tensors} == tensors.keys()
    for tensor in header.tensors:
        expected = tensors[tensor.name]
        assert tensor.shape == tuple(expected.shape)
        assert data[tensor.offset : tensor.offset + tensor.size] == bytes(
            expected.flatten().view(torch.uint8).tolist()
        )


def test_writes_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.ones((3, 5), dtype=torch.float8_e4m3fn),
        "b_scale": torch.ones((3, 1), dtype=torch.bfloat16),
        "a": torch.ones(2, dtype=torch.float32),
        "z": torch.ones((2, 2), dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    dtypes = {"b": "F8_E4M3", "b_scale": "BF16", "a": "F32", "z": "BF16"}
    contents = [(name, dtypes[name], tuple(tensor.shape)) for name, tensor in tensors.items()]
    start, header = lay_out(contents, {"format": "pt"})
    written = (tmp_path / "file").read_bytes()
    assert header.file_size == len(written)
    assert written.startswith(start)
    assert header == read_header(tmp_path / "file")


def test_a_laid_out_file_is_read_by_the_library(tmp_path: Path) -> None:
    start, header = lay_out([("ä", "F16", (3,)), ("none", "U8", (0,))], {})
    (tmp_path / "file").write_bytes(start + bytes(header.file_size - len(start)))
    loaded = load_file(tmp_path / "file")
    assert loaded["ä"].tolist() == [0, 0, 0]
    assert loaded["none"].shape == (0,)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="file cannot be read: No such file"):
        read_header(tmp_path / "file")
