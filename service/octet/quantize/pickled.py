"""Checkpoints of torch's pickled files, ``pytorch_model*.bin``.

Such a file is a ZIP archive, stored uncompressed, of the tensors' numbers and a pickle that says which are
whose. A pickle is a program, so it is only read in a process that can do nothing
(:mod:`octet.quantize.unpickle`). What that says of a file is checked here like any file's header; the numbers
are then read where they lie, as safetensors' are: nothing is converted, nothing is written beside the result.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from octet.quantize.errors import QuantizeError, reason_of
from octet.quantize.files import LocalFiles
from octet.quantize.safetensors_file import ITEM_SIZES, Header, StoredTensor

_CHILD = Path(__file__).with_name("unpickle.py")

_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""safetensors' names of torch's dtypes."""

ENVIRONMENT = {
    # What confines it holds for one thread.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **{name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
}
"""All that the process knows of this one's."""

_MOST_ANSWER_BYTES = 256 << 20


class PickledFiles(LocalFiles):
    """Weight files of torch's in a directory."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        """Has their pickles read.

        Raises:
            QuantizeError: one is damaged, or asks for what is not tensors.
        """
        super().__init__(directory, names)
        paths = [directory / name for name in names]
        self._headers = dict(zip(names, _read_headers(paths), strict=True))

    def header(self, name: str) -> Header:
        """What the file holds, by what its pickle says."""
        return self._headers[name]


def _read_headers(paths: Sequence[Path]) -> list[Header]:
    with ExitStack() as stack:
        descriptors = []
        for path in paths:
            try:
                descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                raise QuantizeError(f"{path} cannot be read: {reason_of(error)}") from error
            stack.callback(os.close, descriptors[-1])
        answers = ask(descriptors)
    return [header(path, answer) for path, answer in zip(paths, answers, strict=True)]


def ask(descriptors: Sequence[int]) -> list[Any]:
    """What the process that reads pickles says of files that are open for reading.

    Raises:
        QuantizeError: it has ended without an answer.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=descriptors,
        env=ENVIRONMENT,
        cwd="/",
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(list(descriptors)).encode() + b"\n")
            process.stdin.close()
            answer = process.stdout.read(_MOST_ANSWER_BYTES)
            found = json.loads(answer)
        except (OSError, ValueError, RecursionError) as error:
            process.kill()
            raise QuantizeError(
                f"the process that reads torch's pickles ended with status {process.wait()}"
            ) from error
        process.kill()  # Whatever it still wants to do.
    if not isinstance(found, list) or len(found) != len(descriptors):
        raise QuantizeError("the process that reads torch's pickles gave no answer that can be used")
    return found


def header(path: Path, answer: Any) -> Header:
    """What the file at `path` holds, from what the process has said of it: not believed unseen.

    Raises:
        QuantizeError: the process has refused the file, or the file does not hold what it says.
    """
    if isinstance(answer, dict) and "error" in answer:
        raise QuantizeError(f"{path} {answer['error']}")
    size = path.stat().st_size
    try:
        tensors = [_tensor(path, size, *entry) for entry in answer["tensors"]]
    except (TypeError, KeyError) as error:
        raise QuantizeError(f"{path} has a pickle whose tensors cannot be understood") from error
    return Header(tuple(sorted(tensors, key=lambda tensor: tensor.offset)), {"format": "pt"}, size)


def _tensor(path: Path, file_size: int, name: Any, dtype: Any, shape: Any, offset: Any) -> StoredTensor:
    if type(name) is not str or {type(number) for number in (offset, *shape)} != {int}:
        raise TypeError
    if dtype not in _DTYPES:
        raise QuantizeError(f"{path}: tensor {name} is of dtype {dtype}, which is not supported")
    size = math.prod(shape) * ITEM_SIZES[_DTYPES[dtype]]
    if offset < 0 or min(shape, default=0) < 0 or offset + size > file_size:
        raise QuantizeError(f"{path} is not whole: the tensor {name} lies outside")
    return StoredTensor(name, _DTYPES[dtype], tuple(shape), offset)
