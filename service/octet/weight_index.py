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
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


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
