"""Starts the engine core as a fork of a process that has imported vLLM already, on CPUs.

vLLM starts an engine core, and that a worker for each rank; each of them imports the same 5,500 modules anew,
one after the other, and so does this process before them. Python's own fork server
(`multiprocessing.forkserver`) imports them for the core beside this process, and never does anything else: no
thread runs in it, and nothing is allocated that a fork could not have. Workers are started as vLLM does it:
their OpenMP threads are bound to cores by variables that its library reads when it is loaded.

A process that is forked has the server's environment and output, so it is told those of the process that
starts it. What is read when modules are imported has to be in the server's environment from the beginning;
where that turns out to differ, the core is started as vLLM does it, too.
"""

import logging
import os
import pickle
from multiprocessing import context, current_process, forkserver
from multiprocessing.reduction import DupFd, ForkingPickler

from octet import _lifeline
from octet.engine.vllm import compat
from octet.engine.vllm.launch import environment, folders
from octet.engine.vllm.launch.orphans import Lifeline

logger = logging.getLogger(__name__)

PRELOADED = "octet.engine.vllm.launch.preloaded"

_STANDARD_OUTPUTS = (1, 2)

# Variables that may change after the server's start: they are read when they are needed, or by workers only.
_READ_LATE = {
    "GLOO_SOCKET_IFNAME",
    "LD_PRELOAD",
    "LOCAL_WORLD_SIZE",
    "NUMEXPR_MAX_THREADS",
    "PYTEST_CURRENT_TEST",
    "THP_MEM_ALLOC_ENABLE",
    "TORCHINDUCTOR_COMPILE_THREADS",
    "TORCHINDUCTOR_CPP_DYNAMIC_THREADS",
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
        with self._lifeline.tied():
            forkserver.ensure_running()
        self._started = True

    def imported(self) -> None:
        """Notes the environment after vLLM was imported in this process, which sets variables as well."""
        if self._started and not self._environment:
            self._environment = dict(os.environ)

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
            logger.debug("starting the engine core anew: %s changed", ", ".join(sorted(early)))
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
        """Makes them this process's own."""
        for fd, output in zip(_STANDARD_OUTPUTS, self._outputs, strict=True):
            os.dup2(output.detach(), fd)
        os.environ.clear()
        os.environ.update(self._environment)
        if _lifeline.VARIABLE in os.environ:
            _lifeline.hold()
        os.sched_setaffinity(0, self._cores)
