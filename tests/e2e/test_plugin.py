"""The plugin in this process's vLLM: what it replaces, what it leaves alone, and when it stays out."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from octet.engine.vllm import compat, kernels
from octet.engine.vllm.plugin import register
from octet.errors import StartupError

T, K, N = 9, 192, 320
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


@pytest.fixture
def vllm_config() -> Iterator[None]:
    """vLLM's layers can be built only while some configuration is the current one."""
    from vllm.config import VllmConfig, set_current_vllm_config

    with set_current_vllm_config(VllmConfig()):
        yield


@pytest.fixture
def clean_vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's registries as they are without Octet; whatever a test puts into them is taken out again."""
    from vllm import _custom_ops, envs
    from vllm.config import SchedulerConfig
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.layers.fusion import fused_act_quant
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
    from vllm.model_executor.models import gemma3
    from vllm.platforms import PlatformEnum
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    for owner, name in ((SchedulerConfig, "get_scheduler_cls"), (WorkerWrapperBase, "init_device")):
        monkeypatch.setattr(owner, name, inspect.unwrap(getattr(owner, name)))
    monkeypatch.setattr(envs, "environment_variables", dict(envs.environment_variables))
    monkeypatch.setattr(
        UnquantizedEmbeddingMethod,
        "process_weights_after_loading",
        inspect.unwrap(UnquantizedEmbeddingMethod.process_weights_after_loading),
    )
    monkeypatch.setenv(HUGE_PAGES, "")
    monkeypatch.delenv(HUGE_PAGES)
    registry = compat.out_of_tree_ops()
    monkeypatch.delitem(registry, "QuantFP8", raising=False)
    stock = {}
    for device in ("cpu", "cuda"):
        stock[device] = [k for k in compat.fp8_linear_kernels(device) if k.__module__.startswith("vllm.")]
        platform = PlatformEnum[device.upper()]
        monkeypatch.setitem(linear._POSSIBLE_FP8_KERNELS, platform, list(stock[device]))
    for table in ("_FUSED_ACT_QUANT", "_FUSED_ACT_QUANT_SUPPORT"):
        theirs = {
            key: row
            for key, row in getattr(fused_act_quant, table).items()
            if key[1] not in _per_token_keys()
        }
        monkeypatch.setattr(fused_act_quant, table, theirs)
    layer = next(c for c in gemma3.Gemma3DecoderLayer.__mro__ if c.__module__.startswith("vllm."))
    monkeypatch.setattr(gemma3, "Gemma3DecoderLayer", layer)
    init = gemma3.Gemma3Model.__init__
    monkeypatch.setattr(gemma3.Gemma3Model, "__init__", getattr(init, "octet_stock", init))
    for owner, name in (
        (_custom_ops, "scaled_fp8_quant"),
        (linear.FP8ScaledMMLinearKernel, "__init__"),
        (WorkerWrapperBase, "initialize_from_config"),
        *replaced_methods(),
    ):
        monkeypatch.setattr(owner, name, inspect.unwrap(getattr(owner, name)))
    return SimpleNamespace(registry=registry, stock=stock["cpu"], gemma3=gemma3, layer=layer)


def replaced_methods() -> list[tuple[type[Any], str]]:
    """What Octet replaces in the layers of models."""
    from octet.engine.vllm.inside import rms_norm_layers, rotary

    inits = [(layer, "__init__") for layer in rms_norm_layers.LAYERS]
    return [*inits, *((attention, "forward") for attention in rotary.ATTENTIONS)]


def _per_token_keys() -> list[Any]:
    from vllm.model_executor.layers.quantization.utils.quant_utils import QuantKey, kDynamicTokenScale

    return [QuantKey(dtype, kDynamicTokenScale) for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)]


def test_registering_again_changes_nothing(clean_vllm: Any) -> None:
    from octet.engine.vllm.inside.fused import FusedGemma3DecoderLayer
    from octet.engine.vllm.inside.linear import OctetFP8LinearKernel
    from octet.engine.vllm.inside.quant import OctetQuantFP8

    for _ in range(3):
        register()
    assert clean_vllm.registry["QuantFP8"] is OctetQuantFP8
    assert list(compat.fp8_linear_kernels("cpu")) == [OctetFP8LinearKernel, *clean_vllm.stock]
    assert OctetQuantFP8.name == "quant_fp8"
    assert clean_vllm.gemma3.Gemma3DecoderLayer is FusedGemma3DecoderLayer
    for owner, name in replaced_methods():
        assert getattr(owner, name).__wrapped__.__module__.startswith("vllm.")


def scheduler_with(**changes: Any) -> type[Any]:
    """The class with which an engine core of this configuration would schedule."""
    from vllm.config import SchedulerConfig

    config = SchedulerConfig.default_factory()
    config.async_scheduling = False
    for name, value in changes.items():
        setattr(config, name, value)
    chosen: type[Any] = config.get_scheduler_cls()
    return chosen


def test_pictures_are_scheduled_apart(clean_vllm: Any) -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    from octet.engine.vllm.inside.vision.scheduler import PictureScheduler

    assert scheduler_with() is Scheduler
    for _ in range(2):
        register()
    assert scheduler_with() is PictureScheduler
    assert scheduler_with(async_scheduling=True) is AsyncScheduler

    class Own(Scheduler):  # type: ignore[misc]
        pass

    assert scheduler_with(scheduler_cls=Own) is Own, "whoever configures another gets that"


def test_the_switch_leaves_vllm_as_it_is(clean_vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    monkeypatch.setenv("OCTET_KERNELS", "off")
    register()
    assert scheduler_with() is Scheduler
    assert "QuantFP8" not in clean_vllm.registry
    assert list(compat.fp8_linear_kernels("cpu")) == clean_vllm.stock
    assert HUGE_PAGES not in os.environ
    assert clean_vllm.gemma3.Gemma3DecoderLayer is clean_vllm.layer
    for owner, name in replaced_methods():
        assert not hasattr(getattr(owner, name), "__wrapped__")
    assert not any(key in _per_token_keys() for _, key in compat.fused_activations()[0])


def test_compiled_models_are_cached_apart(clean_vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs

    register()
    on = envs.compile_factors()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": False})
    register()
    elsewhere = envs.compile_factors()
    monkeypatch.setenv("OCTET_KERNELS", "off")
    register()
    off = envs.compile_factors()
    assert elsewhere not in (on, off)
    assert on != off


def square(x: torch.Tensor) -> torch.Tensor:
    return torch.mm(x, x)


def test_a_compiled_model_can_be_loaded_again(clean_vllm: Any, tmp_path: Path) -> None:
    """vLLM calls finalize_loading of what torch has saved, and compiles again where that fails."""
    register()
    x = torch.randn(3, 3)
    compile_ahead: Any = torch.compile(square, fullgraph=True)
    compiled = compile_ahead.aot_compile(((x,), {}))
    compiled.save_compiled_function(str(tmp_path / "model"))
    with (tmp_path / "model").open("rb") as file:
        loaded: Any = torch.compiler.load_compiled_function(file)
    loaded._artifacts.compiled_fn.finalize_loading(None)
    assert torch.equal(loaded(x), square(x))


@pytest.mark.parametrize("chosen", [None, "0"])
def test_workers_map_large_tensors_in_huge_pages(
    chosen: str | None, clean_vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("this system maps no huge pages")
    if chosen is not None:
        monkeypatch.setenv(HUGE_PAGES, chosen)
    register()
    program = "import torch; x = torch.zeros(1 << 24); print(open('/proc/self/smaps').read())"
    maps = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    advised = any(line.startswith("VmFlags:") and " hg" in line for line in maps.splitlines())
    assert advised == (chosen is None)


def test_the_switch_takes_on_and_off_only(clean_vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTET_KERNELS", "yes")
    with pytest.raises(StartupError, match="neither 'on' nor 'off'"):
        register()


def test_an_extension_that_does_not_load_leaves_vllm_as_it_is(
    clean_vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".ops")[0] == "octet" and ".ops" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "octet._C", None)
    monkeypatch.delattr("octet._C", raising=False)
    warnings: list[str] = []
    logger = SimpleNamespace(warning_once=lambda text, *args, **_: warnings.append(text % args))
    monkeypatch.setattr("vllm.logger.init_logger", lambda _: logger)
    assert kernels.unavailable_reason("cpu") is not None
    register()
    assert "QuantFP8" not in clean_vllm.registry
    assert list(compat.fp8_linear_kernels("cpu")) == clean_vllm.stock
    (warning,) = warnings
    assert "octet kernels off: the compiled extension cannot be loaded" in warning


def test_who_waits_for_shared_memory_sleeps_until_it_is_told(
    clean_vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zmq
    from vllm.distributed.device_communicators import shm_broadcast

    monkeypatch.setattr(shm_broadcast.SpinCondition, "wait", shm_broadcast.SpinCondition.wait)
    spins: list[None] = []
    monkeypatch.setattr(shm_broadcast, "sched_yield", lambda: spins.append(None))
    for _ in range(2):
        register()
    with zmq.Context() as context:
        address = "inproc://notify"
        writer = shm_broadcast.SpinCondition(is_reader=False, context=context, notify_address=address)
        reader = shm_broadcast.SpinCondition(is_reader=True, context=context, notify_address=address)
        sockets = (
            *(writer.local_notify_socket, reader.local_notify_socket),
            *(reader.read_cancel_socket, reader.write_cancel_socket),
        )
        try:
            reader.record_read()
            reader.wait()
            assert not spins
            writer.notify()
            assert reader.local_notify_socket.poll(1000)
            reader.record_read()
            reader.wait()
            assert not reader.local_notify_socket.poll(0), "the next nap would end at once"
        finally:
            for socket in sockets:
                socket.close(linger=0)


def activations() -> torch.Tensor:
    return torch.randn(T, K, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


@pytest.mark.usefixtures("vllm_config")
def test_quantization_agrees_with_vllms(clean_vllm: Any) -> None:
    from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
    from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

    register()
    quant = QuantFP8(static=False, group_shape=GroupShape.PER_TOKEN, num_token_padding=17)
    codes, scales = quant(activations())
    stock_codes, stock_scales = QuantFP8.forward_native(quant, activations())
    assert codes.shape == (17, K)
    assert torch.equal(scales[:T], stock_scales)
    same = codes[:T].view(torch.uint8) == stock_codes[:T].view(torch.uint8)
    assert same.float().mean() > 0.995


@pytest.mark.usefixtures("vllm_config")
@pytest.mark.parametrize("static", [True, False])
def test_per_tensor_quantization_stays_vllms(clean_vllm: Any, static: bool) -> None:
    from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
    from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

    register()
    quant = QuantFP8(static=static, group_shape=GroupShape.PER_TENSOR)
    scale = torch.tensor([0.01]) if static else None
    codes, scales = quant(activations(), scale)
    stock_codes, stock_scales = QuantFP8.forward_native(quant, activations(), scale)
    assert torch.equal(codes.view(torch.uint8), stock_codes.view(torch.uint8))
    assert torch.equal(scales, stock_scales)


def linear_layer() -> Any:
    """A layer as vLLM's loading leaves it: codes as a [K, N] view of [N, K], scales [N, 1]."""
    layer: Any = torch.nn.Module()
    generator = torch.Generator().manual_seed(1)
    codes = torch.randn(N, K, generator=generator).mul(50).to(torch.float8_e4m3fn)
    layer.weight = torch.nn.Parameter(codes.t(), requires_grad=False)
    scales = torch.rand(N, 1, generator=generator).mul(0.01)
    layer.weight_scale = torch.nn.Parameter(scales, requires_grad=False)
    layer.input_scale = None
    return layer


def layer_config(weights: Any, activations: Any) -> Any:
    from vllm.model_executor.kernels.linear import FP8ScaledMMLinearLayerConfig

    return FP8ScaledMMLinearLayerConfig(
        weight_quant_key=weights,
        activation_quant_key=activations,
        weight_shape=(N, K),
        input_dtype=torch.bfloat16,
        out_dtype=torch.bfloat16,
    )


@pytest.mark.usefixtures("vllm_config")
def test_the_linear_kernel_agrees_with_vllms(clean_vllm: Any) -> None:
    from vllm.model_executor.kernels.linear import ChannelWiseTorchFP8ScaledMMLinearKernel
    from vllm.model_executor.layers.quantization.utils.quant_utils import (
        kFp8DynamicTokenSym,
        kFp8StaticChannelSym,
    )

    from octet.engine.vllm.inside.linear import OctetFP8LinearKernel

    config = layer_config(kFp8StaticChannelSym, kFp8DynamicTokenSym)
    names = ["weight", "weight_scale", "input_scale", "input_scale_ub"]
    stock = ChannelWiseTorchFP8ScaledMMLinearKernel(config, names)
    register()
    octet = OctetFP8LinearKernel(config, names)
    layer, bias = linear_layer(), torch.linspace(-1, 1, N).to(torch.bfloat16)
    memory = layer.weight.data_ptr()
    octet.process_weights_after_loading(layer)
    assert layer.weight.data_ptr() == memory, "the weight is not copied"
    x = activations().view(3, 3, K)
    ours, theirs = octet.apply_weights(layer, x, bias), stock.apply_weights(layer, x, bias)
    assert ours.shape == (3, 3, N)
    assert ours.dtype == torch.bfloat16
    # Codes that differ by one (0.03 % of them) move a sum by less than this; a bf16 rounding is 2^-8.
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=2**-7, atol=0.02)


@pytest.mark.usefixtures("vllm_config")
def test_other_layers_go_to_vllms_kernels(clean_vllm: Any) -> None:
    from vllm.model_executor.kernels.linear import init_fp8_linear_kernel
    from vllm.model_executor.layers.quantization.utils.quant_utils import (
        kFp8DynamicTokenSym,
        kFp8StaticChannelSym,
        kFp8StaticTensorSym,
    )

    register()
    shared = {"input_dtype": torch.bfloat16, "out_dtype": torch.bfloat16, "weight_shape": (N, K)}
    mine = init_fp8_linear_kernel(kFp8DynamicTokenSym, kFp8StaticChannelSym, **shared)
    other = init_fp8_linear_kernel(kFp8StaticTensorSym, kFp8StaticTensorSym, **shared)
    assert type(mine).__name__ == "OctetFP8LinearKernel"
    assert type(other).__module__.startswith("vllm.")


@pytest.mark.usefixtures("vllm_config")
def test_compiled_code_calls_the_operators(clean_vllm: Any) -> None:
    from vllm.model_executor.layers.quantization.utils.quant_utils import (
        kFp8DynamicTokenSym,
        kFp8StaticChannelSym,
    )

    from octet.engine.vllm.inside.linear import OctetFP8LinearKernel

    register()
    kernel = OctetFP8LinearKernel(
        layer_config(kFp8StaticChannelSym, kFp8DynamicTokenSym),
        ["weight", "weight_scale", "input_scale", "input_scale_ub"],
    )
    layer = linear_layer()
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: kernel.apply_weights(layer, x), backend=backend, fullgraph=True)
    assert torch.equal(compiled(activations()), kernel.apply_weights(layer, activations()))
    called = {str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"}
    assert {"octet.per_token_quant_fp8", "octet.fp8_linear"} <= called


PARAMETERS = {"type": "object", "properties": {"a": {}}}


def parser_request() -> Any:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    tool = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
    return ChatCompletionRequest(messages=[{"role": "user", "content": ""}], tools=[tool])


TEXT = 'Well: [{"name": "f", "parameters": {"a": [1, 2]}}, {"name": "f", "parameters": {}}]'


def test_the_tool_parser_reads_whole_answers() -> None:
    from vllm.tool_parsers import ToolParserManager

    register()
    parser = ToolParserManager.get_tool_parser("gemma3")(SimpleNamespace(eos_token_id=1))
    found = parser.extract_tool_calls(TEXT, parser_request())
    assert found.tools_called
    assert found.content == "Well:"
    assert [json.loads(call.function.arguments) for call in found.tool_calls] == [{"a": [1, 2]}, {}]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (TEXT, "Well:", [{"a": [1, 2]}, {}]),
        ('print(f("x"))', "", [{"a": "x"}]),
        ("Yes, [1", "Yes, [1", []),  # held back up to the end
        ("[f(a=1), f(a=", "", [{"a": 1}]),
    ],
)
@pytest.mark.parametrize("ending", ["a token", "a stop string", "length"])
def test_the_tool_parser_reads_streams(text: str, content: str, calls: list[Any], ending: str) -> None:
    """Nothing is lost at the end, whatever ends the answer; vLLM says only that it has ended."""
    from vllm.parser import ParserManager

    register()
    parser_cls = ParserManager.get_parser(tool_parser_name="gemma3", enable_auto_tools=True)
    request = parser_request()
    request.stop = ["\n\n"] if ending == "a stop string" else []
    parser = parser_cls(SimpleNamespace(eos_token_id=1), request.tools)
    messages = [parser.parse_delta(piece, [5], request, [1, 2], finished=False) for piece in text]
    if ending == "length":
        messages.append(parser.parse_delta("", [], request, [1, 2], finished=True))
    else:
        messages.append(parser.parse_delta("", [106], request, [1, 2], finished=True))
    found, arguments = "", []
    for message in filter(None, messages):
        found += message.content or ""
        for call in message.tool_calls:
            if call.function.name:
                arguments.append("")
            arguments[call.index] += call.function.arguments or ""
    assert found == content
    assert [json.loads(written) for written in arguments] == calls
    assert parser.tool_parser.streamed_args_for_tool == arguments


def test_the_tool_parser_streams_demanded_calls() -> None:
    from vllm.parser import ParserManager

    register()
    request = parser_request()
    request.tool_choice = "required"
    parser_cls = ParserManager.get_parser(tool_parser_name="gemma3", enable_auto_tools=True)
    parser = parser_cls(SimpleNamespace(eos_token_id=1), request.tools)
    arguments = ""
    text = '[{"name": "f", "parameters": {"a": 1}}]'
    for at, piece in enumerate(text):
        message = parser.parse_delta(piece, [5], request, [1, 2], finished=at == len(text) - 1)
        for call in (message.tool_calls if message else None) or ():
            arguments += call.function.arguments or ""
    assert json.loads(arguments) == {"a": 1}


def test_the_tool_parser_knows_functions_of_both_apis() -> None:
    from openai.types.responses import FunctionTool
    from vllm.tool_parsers import ToolParserManager

    register()
    parser = ToolParserManager.get_tool_parser("gemma3")(SimpleNamespace(eos_token_id=1))
    function = FunctionTool(type="function", name="f", parameters=PARAMETERS, strict=False)
    request = SimpleNamespace(
        tools=[function, SimpleNamespace(type="web_search")], stop=[], stop_token_ids=[]
    )
    [call] = parser.extract_tool_calls("f(1)", request).tool_calls
    assert json.loads(call.function.arguments) == {"a": 1}
