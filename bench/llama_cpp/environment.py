"""Builds llama.cpp out of the source distribution of llama-cpp-python, for this machine, into `build/`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "build" / "llama-cpp"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

# As llama.cpp's own instructions build it: for the processor that compiles. Pictures are not measured.
_CMAKE_ARGS = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"


def python() -> Path:
    """The interpreter of llama.cpp's environment, which is built first where it is missing or outdated.

    That takes some ten minutes on two cores, and fetches the pinned packages; its output goes to standard
    error.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    interpreter, done = FOLDER / "bin" / "python", FOLDER / "requirements.txt"
    if done.is_file() and done.read_bytes() == REQUIREMENTS.read_bytes():
        return interpreter
    print(f"building llama.cpp into {FOLDER}", file=sys.stderr)
    shutil.rmtree(FOLDER, ignore_errors=True)
    environment = os.environ | {"CMAKE_ARGS": _CMAKE_ARGS}
    pip = [interpreter, "-m", "pip", "install", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", FOLDER], [*pip, "--requirement", REQUIREMENTS]):
        subprocess.run([str(part) for part in command], env=environment, stdout=sys.stderr, check=True)
    shutil.copyfile(REQUIREMENTS, done)
    return interpreter


if __name__ == "__main__":
    print(python())
