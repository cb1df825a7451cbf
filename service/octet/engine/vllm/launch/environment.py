"""What has to be so before vLLM is imported: the environment, and packages beside it that would break it."""

import importlib
import importlib.metadata
import os
from dataclasses import dataclass

from octet.engine.vllm.launch.threads import FEW_CORES
from octet.errors import StartupError


@dataclass(frozen=True, slots=True)
class BrokenPackage:
    """An installed package whose import fails.

    Attributes:
        name: its distribution.
        reason: the first line of the import's error.
        remedy: the command that helps.
    """

    name: str
    reason: str
    remedy: str


# transformers imports these whenever they are installed. PyPI has CUDA builds of them, which cannot load
# beside a torch without CUDA. Only torchvision is needed, by picture processors; Octet brings a shim for it.
_REMEDIES = {
    "torchaudio": "pip uninstall -y torchaudio",
    "torchcodec": "pip uninstall -y torchcodec",
    "torchvision": "pip install --force-reinstall --no-deps octet-serve",
}


# How often OpenMP's threads look for more work before they sleep: for some 0.6 ms. By default it is ten times
# as long, about what a worker's Python takes between two products. Where they compute on all cores, the
# server waits for one of these meanwhile: with 32 answers on two cores this made 13 % more tokens a second,
# and first text 10 % earlier.
_SPINS, _SPIN_COUNT = "GOMP_SPINCOUNT", "30000"
_WAITING = "OMP_WAIT_POLICY"


def prepare() -> None:
    """Sets what vLLM and OpenMP read when they are imported. May be repeated."""
    # Standard output belongs to the commands' own results.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    # A process with threads and a gRPC server in it must not fork.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if len(os.sched_getaffinity(0)) <= FEW_CORES and _WAITING not in os.environ:
        os.environ.setdefault(_SPINS, _SPIN_COUNT)


def broken_packages() -> list[BrokenPackage]:
    """The installed companions of torch that fail to import. Imports torch and them."""
    broken = []
    for name, remedy in _REMEDIES.items():
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        try:
            importlib.import_module(name)
        except (
            Exception
        ) as error:  # a library of the wrong build fails in many ways: OSError, RuntimeError, ...
            lines = str(error).strip().splitlines() or [type(error).__name__]
            broken.append(BrokenPackage(name, lines[0], remedy))
    return broken


def require_working_packages() -> None:
    """Raises StartupError when a companion of torch would break vLLM's import."""
    for package in broken_packages():
        raise StartupError(f"{package.name} cannot be imported ({package.reason}); run `{package.remedy}`")
