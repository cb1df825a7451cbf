"""Starts vLLM's engine, and turns whatever goes wrong with it into one line.

vLLM reports a failed start as "see root cause above": the cause is in the log of a process that is gone by
then, between tracebacks. So the output of the engine's processes runs through this one, which holds error
lines back until the start has succeeded, and otherwise picks the cause out of them.
"""

import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from octet.config.memory import memory_kills
from octet.engine.vllm import compat, kernels, plugin
from octet.engine.vllm.launch import (
    forkserver,
    fp8_vocabulary,
    logs,
    model_files,
    parallel,
    sockets,
    threads,
    weights,
)
from octet.engine.vllm.launch.args import EngineSettings, finder_of_calls
from octet.engine.vllm.launch.hosts.addresses import choose
from octet.engine.vllm.launch.hosts.meeting import Hosts, meet
from octet.engine.vllm.launch.orphans import Lifeline, is_effective
from octet.engine.vllm.launch.output import SILENT, EngineOutput, is_hollow, silent_end
from octet.errors import StartupError
from octet.weight_index import CheckpointError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

T = TypeVar("T")

logger = logging.getLogger(__name__)

# What is said of a rank that was killed, or that has lost one of another machine; and how long that machine
# may take to say why.
_FROM_AFAR = re.compile(f"{SILENT}|connect|gloo|nccl|store|socket|peer|timed? ?out|cancelled", re.IGNORECASE)
_WORD_SECONDS = 5.0

WANT_OF_MEMORY = (
    "the kernel killed a process for want of memory; --kv-cache-memory-bytes, --mm-processor-cache-gb and "
    "--max-num-batched-tokens say how much is taken beside the weights"
)
"""What is said of an engine that was killed for its memory."""


class Launch:
    """One start of an engine, and what holds its processes afterwards.

    May be cancelled and closed from any thread.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._processes = Lifeline()
        self._link = Lifeline()
        self._hosts: Hosts | None = None
        self._memory_kills = memory_kills()

    @property
    def lost(self) -> str | None:
        """Which of the machines that serve together is gone, and how; its processes here are killed, then."""
        return None if self._hosts is None else self._hosts.lost

    def serve(self, stat_loggers: Sequence[Any] = ()) -> "AsyncLLM":
        """Loads the model and starts the engine's processes; blocks for as long as that takes.

        Args:
            stat_loggers: factories of vLLM's stat loggers, unused where its statistics are off.

        Raises:
            StartupError: with one line that names the cause.
        """
        engine = self._settings.engine
        if engine.node_rank > 0:
            raise StartupError("--node-rank: only the first machine serves; start the others with --headless")

        def create() -> "AsyncLLM":
            config = _prepare(self._settings)
            from vllm.usage.usage_lib import UsageContext

            compat.tokenizers.share_tokenizer()
            llm = compat.ending.quiet_llm()
            return self._start(
                lambda: llm.from_vllm_config(
                    config,
                    usage_context=UsageContext.API_SERVER,
                    enable_log_requests=engine.enable_log_requests,
                    disable_log_stats=engine.disable_log_stats,
                    # One of one's own would switch statistics on.
                    stat_loggers=None if engine.disable_log_stats else list(stat_loggers),
                ),
            )

        forkserver.server.start(parallel.local_ranks(engine))
        return self._among_hosts(create)

    def compute(self) -> "MultiprocExecutor":
        """Starts this machine's ranks of a model that another one serves; blocks until all have loaded it.

        Raises:
            StartupError: with one line that names the cause.
        """
        refusal = "--headless: is for machines with a --node-rank above 0; the first one serves"
        if self._settings.engine.node_rank == 0 or self._settings.engine.nnodes == 1:
            raise StartupError(refusal)

        def create() -> "MultiprocExecutor":
            config = _prepare(self._settings, headless=True)
            from vllm.v1.executor.multiproc_executor import MultiprocExecutor

            if config.parallel_config.node_rank_within_dp == 0:
                raise StartupError(refusal)
            return self._start(lambda: MultiprocExecutor(config, monitor_workers=False))

        return self._among_hosts(create)

    @property
    def short_of_memory(self) -> bool:
        """Whether the kernel has killed for want of memory since the start, or since `seen_alive`."""
        return memory_kills() > self._memory_kills

    def seen_alive(self) -> None:
        """Notes that all processes live: what the kernel has killed until now was none of theirs."""
        self._memory_kills = memory_kills()

    def on_loss(self, listener: Callable[[], object]) -> None:
        """Has `listener` called, from another thread, when `lost` is set."""
        if self._hosts is not None:
            self._hosts.on_loss(listener)

    def cancel(self) -> None:
        """Ends a start: kills its processes, those that it is still to start, and the wait for others."""
        self._processes.cut()
        self._link.cut()

    def close(self, reason: str = "") -> None:
        """Kills what is left of the engine's processes, and leaves the other machines. Idempotent.

        Args:
            reason: why, for the other machines to tell.
        """
        self._processes.cut()
        if self._hosts is not None:
            self._hosts.close(reason)

    def _among_hosts(self, create: Callable[[], T]) -> T:
        """What `create` makes, after the other machines have come, where there are others."""
        _require_plugin()
        if not is_effective():
            logger.warning("the engine may outlive this process: run `pip install` on Octet again")
        engine = self._settings.engine
        if engine.nnodes == 1:
            with self._processes.tied():
                return create()
        if not 0 < engine.master_port < 65536:
            raise StartupError(f"--master-port: {engine.master_port} is not a port")
        if engine.node_rank >= engine.nnodes:
            raise StartupError(f"--node-rank: {engine.node_rank} is not below --nnodes {engine.nnodes}")
        from vllm.platforms import current_platform

        cuda = current_platform.is_cuda()
        addresses = choose(engine.master_addr, first=engine.node_rank == 0, cuda=cuda)
        self._hosts = meet(engine, addresses, self._settings.hosts_timeout, self._link)
        self._hosts.on_loss(self._processes.cut)
        engine.master_addr = addresses.master
        parallel.limit_waiting(engine, self._settings.hosts_timeout)
        try:
            with addresses.announced(cuda=cuda), self._processes.tied():
                made = create()
        except BaseException as error:
            self.close(str(error))
            raise
        self._hosts.vouch_for(self._processes.pids())
        return made

    def _start(self, create: Callable[[], T]) -> T:
        """What `create` makes, whose processes write through this one and end with it."""
        sockets.keep_together()
        output = EngineOutput()
        try:
            with output, threads.bound(self._settings.engine), _forked():
                made = create()
        except Exception as error:
            # An engine that could not start may leave processes behind, whose output would go on.
            self._processes.cut()
            raise _refusal(self._settings, self._cause(error, output)) from error
        output.release()
        return made

    def _cause(self, error: Exception, output: EngineOutput) -> str:
        """Why a start has failed: what a process of the engine's said of it, or else this one."""
        told = output.cause()
        if self.short_of_memory:
            return WANT_OF_MEMORY
        said = model_files.words(error)
        if told is None and not is_hollow(type(error).__name__, said):
            # The engine's processes were not even started.
            return model_files.fault(self._settings, error)
        return self._blame(told or silent_end(str(error)))

    def _blame(self, cause: str) -> str:
        """The loss of another machine, where that may be behind what went wrong here; `cause` otherwise."""
        if self._hosts is None or not _FROM_AFAR.search(cause):
            return cause
        # Word of it may be on its way.
        self._hosts.await_loss(_WORD_SECONDS)
        return self._hosts.lost or cause


def _prepare(settings: EngineSettings, *, headless: bool = False) -> "VllmConfig":
    """Everything that can be checked before processes are started."""
    from vllm.usage.usage_lib import UsageContext

    forkserver.server.imported()
    try:
        model_files.check(settings)
        model_files.check_given_template(settings)
        config = settings.engine.create_engine_config(UsageContext.API_SERVER, headless=headless)
        with logs.quiet():
            model_files.check_generation(config)
    except CheckpointError as error:
        raise _refusal(settings, str(error)) from error
    except Exception as error:  # vLLM and transformers raise nearly anything for what they cannot serve
        raise _refusal(settings, model_files.fault(settings, error, configuring=True)) from error
    _require_kernels()
    fp8_vocabulary.check(config)
    weights.check(config)
    if settings.requires_calls_found:
        _require_calls_found(settings, config.model_config.hf_config.model_type)
    _announce_compilation(config)
    return config


def _refusal(settings: EngineSettings, fault: str) -> StartupError:
    return StartupError(f"cannot serve {settings.engine.model}: {fault}")


def _announce_compilation(config: "VllmConfig") -> None:
    """Says why a start may take minutes, of which vLLM says only that its processes may be hanging."""
    from vllm import envs
    from vllm.config import CompilationMode

    if config.compilation_config.mode != CompilationMode.NONE:
        logger.info(
            "compiling the model: some minutes the first time, seconds when it is found in %s again; "
            "--enforce-eager does without",
            envs.VLLM_CACHE_ROOT,
        )


def _forked() -> AbstractContextManager[None]:
    if not forkserver.server.fits():
        return nullcontext()
    return compat.processes.core_started_in(forkserver.ForkContext())


def _require_plugin() -> None:
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "octet" not in allowed.split(","):
        raise StartupError(f"VLLM_PLUGINS={allowed} leaves Octet's plugin out; add octet to it")
    if not entry_points(group="vllm.general_plugins", name="octet"):
        raise StartupError("Octet's entry point for vLLM is not installed; run `pip install` on Octet again")


def _require_calls_found(settings: EngineSettings, model_type: str) -> None:
    """Checks --enable-auto-tool-choice, by the rule that vLLM has for it."""
    finder = finder_of_calls(settings.tool_call_parser, model_type)
    if finder is None:
        raise StartupError(
            f"--enable-auto-tool-choice: needs --tool-call-parser; models of type {model_type} have none of "
            "their own"
        )
    logger.info("--enable-auto-tool-choice: calls are always looked for; %s finds them here", finder)


def _require_kernels() -> None:
    if plugin.failure is not None:
        raise StartupError(f"Octet's plugin could not be put into vLLM: {plugin.failure}")
    if not kernels.wanted():
        return
    if reason := kernels.unavailable_reason(compat.devices.platform()):
        raise StartupError(f"{reason}; {kernels.SWITCH}=off serves with vLLM's own kernels")
