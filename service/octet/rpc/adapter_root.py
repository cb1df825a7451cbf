"""The directory below which adapters lie that may be loaded, and nothing outside of it."""

import os
from pathlib import Path, PurePosixPath

from octet.errors import InvalidRequestError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What an adapter consists of. Weights in other formats may run code when they are read."""


def find_adapter(root: str, path: PurePosixPath) -> Path:
    """The adapter's directory, without symbolic links in it.

    Args:
        root: the directory.
        path: where the adapter is below it.

    Raises:
        InvalidRequestError: there is no adapter, or a symbolic link leads to it or its files from outside.
    """
    base = os.path.realpath(root)
    folder = os.path.realpath(os.path.join(base, path))
    files = [os.path.realpath(os.path.join(folder, name)) for name in (CONFIG, WEIGHTS)]
    if any(os.path.commonpath([base, place]) != base for place in (folder, *files)):
        raise InvalidRequestError("path", "leads out of the server's --adapter-root")
    if not os.path.isdir(folder):
        raise InvalidRequestError("path", "names no directory below the server's --adapter-root")
    for name, file in zip((CONFIG, WEIGHTS), files, strict=True):
        if not os.path.isfile(file):
            raise InvalidRequestError("path", f"names a directory without {name}")
    return Path(folder)
