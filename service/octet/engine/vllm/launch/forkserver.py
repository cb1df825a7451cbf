"""Starts an engine's processes as forks of one that has imported vLLM already, on CPUs.

vLLM starts an engine core, and that a worker for each rank; each of them would import the same 5,500 modules
anew, one after the other, and so would this process before them. Python's own fork server
(`multiprocessing.forkserver`) imports them once, beside this process, and never does anything else: no thread
of Python's runs in it, no parallel region of OpenMP's, and nothing is allocated that a fork could not have.

A process that is forked has the server's environment and output, so each is told those of the process that
starts it. What is read when modules are imported and libraries loaded has to be in the server's environment
from the beginning; where that turns out to differ, a process is started as vLLM does it.
"""

import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import context, current_process, forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

from octet import _lifeline
from octet.engine.vllm import compat, kernels
from octet.engine.vllm.launch import environment, folders, openmp
from octet.engine.vllm.launch.orphans import Lifeline

logger = logging.getLogger(__name__)

PRELOADED = "octet.engine.vllm.launch.preloaded"

_STANDARD_OUTPUTS = (1, 2)

# What only workers read early, as vLLM's platform for CPUs and Octet's plugin set it before they are started.
_READ_BY_WORKERS = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1"}
_HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}

# Variables that may change after the server's start: they are read when they are needed, or when a program is
# executed, as the path that OpenCV makes longer with each process that imports it after another. COLUMNS and
# LINES are set by readline, past Python, for the programs that a process starts, and for no fork.
_READ_LATE = {
    "COLUMNS",
    "GLOO_SOCKET_IFNAME",
    "LD_LIBRARY_PATH",
    "LINES",
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
        self.forked = False
        """Whether this process is one that was forked off the server of another."""
        # Whoever is killed takes it along, also while it imports.
        self._lifeline = Lifeline()

    def start(self, ranks: int) -> None:
        """Has the modules imported, beside this process; returns at once. May be repeated.

        Does nothing where vLLM computes on something else than CPUs: drivers do not survive a fork.

        Args:
            ranks: how many workers there will be, as far as is known yet.
        """
        if self._started or compat.installed_distributions().keys() != {compat.CPU_DISTRIBUTION}:
            return
        environment.prepare()
        forkserver.set_forkserver_preload([PRELOADED])
        # The server's socket goes with this process, however that ends.
        current_process()._config.setdefault("tempdir", str(folders.make()))  # type: ignore[attr-defined]
        early = _READ_BY_WORKERS | (_HUGE_PAGES if kernels.wanted() else {}) | openmp.foreseen(ranks)
        with _set(early), self._lifeline.tied():
            forkserver.ensure_running()
        self._started = True

    def imported(self) -> None:
        """Notes the environment after vLLM was imported in this process, which sets variables as well."""
        if self._started and not self._environment:
            self._environment = dict(os.environ)

    def has_forked(self, environment: dict[str, str]) -> None:
        """Notes in a process that was forked off the server what the server's environment is."""
        self._environment = environment
        self.forked = True
        # Python would start another server here, though it promises to use the one that there is.
        forkserver._forkserver.ensure_running = resource_tracker.ensure_running  # type: ignore[method-assign]

    def fits(self) -> bool:
        """Whether processes may be forked off it: it runs, and the environment is still the same to them.

        Where this process was not forked itself, that is an engine core; where it was, a worker.
        """
        if not self._environment:
            return False
        changed = {
            name
            for name in self._environment.keys() | os.environ.keys()
            if self._environment.get(name) != os.environ.get(name)
        }
        late = _READ_LATE | openmp.VARIABLES
        if not self.forked:
            late |= _READ_BY_WORKERS.keys() | _HUGE_PAGES.keys() | {openmp.PRELOAD}
        elif not openmp.suits(self._environment, os.environ):
            return False
        early = {name for name in changed - late if not name.startswith(_READ_LATE_PREFIX)}
        if early:
            logger.debug("starting processes anew: %s changed", ", ".join(sorted(early)))
        return not early


server = ForkServer()


class ForkContext(context.ForkServerContext):
    """Python's context of a fork server, whose processes take over what surrounds their starters.

    Those that cannot be forked off it are started anew.
    """

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:  # type: ignore[override]
        """A process like `multiprocessing.Process`, for the environment as it is now."""
        return _Forked(*args, **kwargs) if server.fits() else context.SpawnProcess(*args, **kwargs)


class _Forked(context.ForkServerProcess):
    """A process that is in its starter's surroundings before anything of what it is to do is looked at."""

    def __getstate__(self) -> tuple["_Surroundings", bytes]:
        return _Surroundings(), bytes(ForkingPickler.dumps(self.__dict__))

    def __setstate__(self, state: tuple["_Surroundings", bytes]) -> None:
        surroundings, process = state
        surroundings.enter()
        self.__dict__.update(pickle.loads(process))


class _Surroundings:
    """What a process has of the one that starts it, where that does not fork it itself."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._cores = os.sched_getaffinity(0)
        self._outputs = [DupFd(fd) for fd in _STANDARD_OUTPUTS]
        self._computes = server.forked

    def enter(self) -> None:
        """Makes them this process's own, and lets it start processes in the same way."""
        for fd, output in zip(_STANDARD_OUTPUTS, self._outputs, strict=True):
            os.dup2(output.detach(), fd)
        server.has_forked(dict(os.environ))
        os.environ.clear()
        os.environ.update(self._environment)
        if _lifeline.VARIABLE in os.environ:
            _lifeline.hold()
        os.sched_setaffinity(0, self._cores)
        if self._computes:
            openmp.bind()


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
