"""Where the sockets between an engine's processes lie."""

import os
from pathlib import Path

from octet.engine.vllm.launch import folders

_VARIABLE = "VLLM_RPC_BASE_PATH"
# The path of a socket has 107 characters at most, and vLLM names each by a UUID.
_LONGEST_FOLDER = 107 - len("/") - 36


def keep_together() -> None:
    """Gives the engines that this process starts a folder for their sockets, which goes with the process.

    vLLM leaves its sockets, seven of each engine, in the folder of temporary files. So it does still where
    that has too long a name for another folder in it; and where the environment names a folder, that is used.
    """
    if _VARIABLE in os.environ:
        return
    folder = folders.make()
    if len(str(folder)) > _LONGEST_FOLDER:
        folders.remove(folder)
        return
    os.environ[_VARIABLE] = str(folder)


def own_folder() -> Path | None:
    """The folder that the process has which started this one; None where it has none of its own."""
    path = Path(os.environ.get(_VARIABLE, ""))
    return path if folders.is_own(path) else None
