"""The files that go along with a checkpoint's weights as they are.

Everything does that is no weight: tokenizer, processor, templates, settings, code, license, pictures.
Left behind are weights in other formats, what caches and version control keep, and what is not in the folder.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from octet.quantize.errors import saying

WEIGHTS = (
    *("safetensors", "bin", "pt", "pth", "pkl", "pickle", "ckpt", "h5", "hdf5", "msgpack", "npz", "npy"),
    *(
        "gguf",
        "ggml",
        "onnx",
        "onnx_data",
        "pb",
        "tflite",
        "mlmodel",
        "mlpackage",
        "nemo",
        "distcp",
        "params",
    ),
)
"""Suffixes of files that hold weights, in whatever format."""

_LEFTOVERS = ("pyc", "lock", "incomplete", "part", "tmp", "swp")
_CACHES = ("__pycache__", "runs", "wandb")
_MODULES = "modules.json"


@dataclass(frozen=True, slots=True)
class Companions:
    """What goes along.

    Attributes:
        files: paths relative to the folder, in order.
        outside: links that lead out of the folder, and are left behind.
    """

    files: tuple[str, ...]
    outside: tuple[str, ...]


def find(folder: Path) -> Companions:
    """Looks a folder through, folders in it too; links to folders are not followed."""
    modules = _module_folders(folder)
    files, outside = [], []
    for path in sorted(_walk(folder)):
        name = path.relative_to(folder).as_posix()
        if not goes_along(name, modules):
            continue
        if path.is_symlink() and not _is_within(path, folder):
            outside.append(name)
        elif path.is_file():
            files.append(name)
    return Companions(tuple(files), tuple(outside))


def goes_along(name: str, modules: tuple[str, ...] = ()) -> bool:
    """Whether a file is copied as it is.

    Args:
        name: its path relative to the folder, with "/".
        modules: folders of further layers, whose weights go along.
    """
    path = PurePosixPath(name)
    if any(part.startswith(".") or part in _CACHES for part in path.parts):
        return False
    suffix = path.suffix.removeprefix(".").lower()
    if suffix in _LEFTOVERS or path.name.endswith("~"):
        return False
    if suffix == "safetensors" and path.parent.as_posix() in modules:
        return True
    return suffix not in WEIGHTS and not name.endswith(".index.json")


def _module_folders(folder: Path) -> tuple[str, ...]:
    """Folders of the layers that sentence-transformers puts after a model, such as "2_Dense"."""
    try:
        modules = json.loads((folder / _MODULES).read_bytes())
        return tuple(module["path"] for module in modules if module["path"])
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def _walk(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _CACHES]
        yield from (Path(at) / name for name in files)
        yield from (Path(at) / name for name in folders if (Path(at) / name).is_symlink())


def _is_within(link: Path, folder: Path) -> bool:
    """Whether a link leads to a file of the folder, or, of a folder in the hub's cache, of that model."""
    home = folder.resolve()
    homes = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
    try:
        target = link.resolve()
    except RuntimeError:  # it leads to itself
        return False
    return any(target.is_relative_to(place) for place in homes)


def copy(source: Path, target: Path) -> None:
    """Copies a file, and waits until it is on the disk; folders on its way are made.

    Raises:
        QuantizeError: it cannot be read or written.
    """
    with saying(target, "cannot be written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as read, target.open("wb") as write:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())
