"""Where the sockets between an engine's processes lie."""

import atexit
import os
import shutil
import tempfile

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
    folder = tempfile.mkdtemp(prefix="octet-")
    if len(folder) > _LONGEST_FOLDER:
        os.rmdir(folder)
        return
    os.environ[_VARIABLE] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
