"""Where a model's weights are, and whether their files are whole as far as headers say; no data is read."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from octet.weight_index import POINTER, CheckpointError, is_pointer, read_weight_map

_LENGTH_BYTES = 8
# As the safetensors library has it: whatever says that it has a longer header has none.
_LONGEST_HEADER = 100_000_000

# How a file begins that torch.save has written: an archive today, a pickle long ago.
_ARCHIVE, _PICKLE = b"PK", b"\x80"


def find_folder(model: str) -> Path:
    """Where a model's files are: it is a local directory, or a hub id in the local cache.

    Raises:
        CheckpointError: it is neither.
    """
    local = Path(model).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError as error:
        raise CheckpointError(f"{model} is neither a directory nor a hub id") from error
    if not isinstance(found, str):
        raise CheckpointError(f"{model} is neither a directory nor in the local cache of the hub")
    return Path(found).parent


def weight_files(folder: Path) -> list[Path]:
    """A model's weight files, in the order of their names.

    Raises:
        CheckpointError: there are none, or some that the index names are missing.
    """
    weight_map = read_weight_map(folder)
    if weight_map is not None:
        return [folder / name for name in sorted(set(weight_map.values()))]
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise CheckpointError(f"{folder} holds no weights")
    return files


def check_weight_file(path: Path) -> None:
    """Looks at a safetensors file, or at one of PyTorch's.

    Raises:
        CheckpointError: it cannot be read, is another kind of file, or is not whole; with its path.
    """
    try:
        with path.open("rb") as file:
            fault = _fault(path, file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if fault:
        raise CheckpointError(f"{path} {fault}")


def _fault(path: Path, file: BinaryIO, size: int) -> str | None:
    """What is wrong with a file, as the rest of a sentence; None where nothing is."""
    start = file.read(64)
    file.seek(0)
    if not start:
        return "is empty"
    if is_pointer(start):
        return POINTER
    return (
        _safetensors_fault(path, file, size) if path.suffix == ".safetensors" else _torch_fault(file, start)
    )


def _safetensors_fault(path: Path, file: BinaryIO, size: int) -> str | None:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES or length > _LONGEST_HEADER:
        return "is no safetensors file: it does not begin with the length of a header"
    if size < _LENGTH_BYTES + length:
        return f"is cut off within its header: it has {size} bytes, and that alone says to have {length}"
    try:
        entries = json.loads(file.read(length))
        ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, RecursionError) as error:
        return f"is no safetensors file: its header is not JSON ({error})"
    except (AttributeError, LookupError, TypeError):
        return "is no safetensors file: its header does not say where tensors lie"
    whole = _LENGTH_BYTES + length + max(ends, default=0)
    if size != whole:
        return f"{'is cut off' if size < whole else 'goes on behind its end'}: {size} bytes, not {whole}"
    return _library_fault(path)


def _library_fault(path: Path) -> str | None:
    """What the library that would load a file finds in its header: dtypes, shapes, gaps between tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return None
    except SafetensorError as error:
        return f"is no safetensors file: {error}"


def _torch_fault(file: Any, start: bytes) -> str | None:
    if start.startswith(_ARCHIVE):
        return None if zipfile.is_zipfile(file) else "is cut off: the directory at its end is not there"
    return None if start.startswith(_PICKLE) else "is no file of PyTorch's"
