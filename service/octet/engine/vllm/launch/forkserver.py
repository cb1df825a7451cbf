"""Starts the engine's processes as forks of one that has imported vLLM already, on CPUs.

vLLM starts an engine core, and that a worker for each rank; each of them would import the same 5,500 modules
anew, one after the other, and so would this process before them. Python's own fork server
(`multiprocessing.forkserver`) imports them once, beside this process, and never does anything else: no thread
runs in it, and nothing is allocated that a fork could not have.

A process that is forked has the server's environment and output, so each is told those of the process that
starts it. What is read when modules are imported has to be in the server's environment from the beginning;
where that turns out to differ, processes are started as vLLM does it.
"""

import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import context, current_process, forkserver, resource_tracker
from multiprocessing.reduction import DupFd, ForkingPickler
from pathlib import Path

from octet import _lifeline
from octet.engine.vllm import compat
from octet.engine.vllm.launch import environment, folders
from octet.engine.vllm.launch.orphans import Lifeline

logger = logging.getLogger(__name__)

PRELOADED = "octet.engine.vllm.launch.preloaded"

_STANDARD_OUTPUTS = (1, 2)

# What vLLM's platform for CPUs and Octet's plugin set before processes are started, and torch reads early.
_READ_EARLY = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1",
}

# Variables that are read when they are needed, and may therefore change after the server's start.
_READ_LATE = {
    "GLOO_SOCKET_IFNAME",
    "LOCAL_WORLD_SIZE",
    "NUMEXPR_MAX_THREADS",
    "PYTEST_CURRENT_TEST",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_DISABLE_SHARED_EXPERTS_STREAM",
    "VLLM_HOST_IP",
    "VLLM_RPC_BASE_PATH",
    "VLLM_SSM_CONV_STATE_LAYOUT",
    "VLLM_WORKER_MULTIPROC_METHOD",
}
_READ_LATE_PREFIX = "OCTET_"


class ForkServer:
    """The server of this process, from its start to this process's end."""

    def __init__(self) -> None:
        self._started = False
        self._environment: dict[str, str] = {}
        # Whoever is killed takes it along, also while it imports.
        self._lifeline = Lifeline()

    def start(self) -> None:
        """Has the modules imported, beside this process; returns at once. May be repeated.

        Does nothing where vLLM computes on something else than CPUs: drivers do not survive a fork.
        """
        if self._started or compat.installed_distributions().keys() != {compat.CPU_DISTRIBUTION}:
            return
        environment.prepare()
        forkserver.set_forkserver_preload([PRELOADED])
        # The server's socket goes with this process, however that ends.
        current_process()._config.setdefault("tempdir", str(folders.make()))  # type: ignore[attr-defined]
        with _environment({**_READ_EARLY, **_preloads()}), self._lifeline.tied():
            forkserver.ensure_running()
        self._started = True

    def imported(self) -> None:
        """Notes the environment after vLLM was imported in this process, which sets variables as well."""
        if self._started and not self._environment:
            self._environment = {**os.environ, **_READ_EARLY, **_preloads()}

    def fits(self) -> bool:
        """Whether processes may be forked off it: it runs, and the environment is still the same to them."""
        if not self._environment:
            return False
        changed = {
            name
            for name in self._environment.keys() | os.environ.keys()
            if self._environment.get(name) != os.environ.get(name)
        }
        early = {name for name in changed - _READ_LATE if not name.startswith(_READ_LATE_PREFIX)}
        if early:
            logger.debug("starting the engine's processes anew: %s changed", ", ".join(sorted(early)))
        return not early


server = ForkServer()


class _Process(context.ForkServerProcess):
    """A process that is in its starter's surroundings before anything of what it is to do is looked at."""

    def __getstate__(self) -> tuple["_Surroundings", bytes]:
        return _Surroundings(), bytes(ForkingPickler.dumps(self.__dict__))

    def __setstate__(self, state: tuple["_Surroundings", bytes]) -> None:
        surroundings, process = state
        surroundings.enter()
        self.__dict__.update(pickle.loads(process))


class ForkContext(context.ForkServerContext):
    """Python's context of a fork server, whose processes take over what surrounds their starters."""

    Process = _Process


class _Surroundings:
    """What a process has of the one that starts it, where that does not fork it itself."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._cores = os.sched_getaffinity(0)
        self._outputs = [DupFd(fd) for fd in _STANDARD_OUTPUTS]

    def enter(self) -> None:
        """Makes them this process's own, and lets it start processes in the same way."""
        for fd, output in zip(_STANDARD_OUTPUTS, self._outputs, strict=True):
            os.dup2(output.detach(), fd)
        os.environ.clear()
        os.environ.update(self._environment)
        if _lifeline.VARIABLE in os.environ:
            _lifeline.hold()
        os.sched_setaffinity(0, self._cores)
        # Python would start another server here, though it promises to use the one that there is.
        forkserver._forkserver.ensure_running = resource_tracker.ensure_running  # type: ignore[method-assign]


def is_forked() -> bool:
    """Whether this process is one that was forked off a server."""
    return forkserver.get_inherited_fds() is not None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Replaces the environment for a while."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _preloads() -> dict[str, str]:
    """LD_PRELOAD as vLLM's platform for CPUs makes it: torch's OpenMP, and before it vLLM's allocator."""
    libraries = os.environ.get("LD_PRELOAD", "")
    if not any(name in libraries for name in ("libomp", "libgomp", "libiomp")):
        torch = _folder("torch")
        found = _first([torch.parent / "torch.libs", torch / "lib"], "libgomp*.so*")
        libraries = f"{libraries}:{found}" if libraries and found else libraries or found
    if "libtcmalloc" not in libraries:
        libs = [_folder("vllm") / "libs"]
        found = _first(libs, "libtcmalloc_minimal*.so*") or _first(libs, "libtcmalloc.so*")
        libraries = f"{found}:{libraries}" if libraries and found else libraries or found
    return {"LD_PRELOAD": libraries} if libraries else {}


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _first(places: list[Path], pattern: str) -> str:
    return next((str(found) for place in places for found in place.glob(pattern)), "")
