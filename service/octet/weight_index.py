"""A checkpoint's JSON files, and the index that says which file holds which of its weights."""

import json
from pathlib import Path
from typing import Any

from octet.errors import OctetError

INDEX = "model.safetensors.index.json"


class CheckpointError(OctetError):
    """A model that is not there or is not whole. The message is one line."""

    reason = "CHECKPOINT"


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    content = read_value(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def read_value(path: Path) -> Any:
    """The JSON value that a file holds.

    Raises:
        CheckpointError: it cannot be read, or is no JSON.
    """
    try:
        text = path.read_bytes()
        return json.loads(text)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} {_no_json(text, error)}") from error


def is_pointer(start: bytes) -> bool:
    """Whether a file that begins so is a pointer of Git LFS, in the place of the file itself."""
    return start.startswith(b"version https://git-lfs.github.com/")


POINTER = "is a pointer of Git LFS, not the file itself; run `git lfs pull` where it comes from"


def _no_json(text: bytes, error: Exception) -> str:
    """Why a file's text is none."""
    if not text.strip():
        return "is empty"
    return POINTER if is_pointer(text) else f"is not JSON: {error}"


def read_weight_map(folder: Path, name: str = INDEX, here: bool = True) -> dict[str, str] | None:
    """The file in `folder` of each tensor; None where there is no index.

    Args:
        folder: the checkpoint's.
        name: the index's name.
        here: whether the files have to be in `folder`.

    Raises:
        CheckpointError: the index is none, or names files that are missing or elsewhere.
    """
    index = folder / name
    if not index.is_file():
        return None
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} holds no weight_map")
    files = sorted(set(map(str, weight_map.values())))
    for file in files:
        if Path(file).name != file:
            raise CheckpointError(f"{index} names a weight file elsewhere: {file}")
    missing = [file for file in files if not (folder / file).is_file()]
    if missing and here:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(files)} weight files, such as {missing[0]}"
        )
    return {str(tensor): str(file) for tensor, file in weight_map.items()}
