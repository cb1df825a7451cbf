"""Norm and activation fused with quantization, inside vLLM's modules: what they hand over, and to whom."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

T, K = 5, 192


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """The plugin puts its producers into this process's vLLM."""
    from octet.engine.vllm.plugin import register

    register()


@pytest.fixture(autouse=True)
def as_in_vllm() -> Iterator[None]:
    """vLLM's layers are built while some configuration is the current one, and run without autograd."""
    from vllm.config import VllmConfig, set_current_vllm_config

    with torch.no_grad(), set_current_vllm_config(VllmConfig()):
        yield


def rows(width: int, seed: int) -> torch.Tensor:
    return torch.randn(T, width, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def owner_of(consumer: Any) -> torch.nn.Module:
    owner = torch.nn.Module()
    owner.consumer = consumer
    return owner


def linear_layer(dtype: torch.dtype | None, *, lora: bool = False) -> torch.nn.Module:
    """A linear layer as vLLM's producers see it; `dtype` is of the codes that it takes."""
    from vllm.model_executor.layers.quantization.utils.quant_utils import QuantKey, kDynamicTokenScale

    layer = torch.nn.Module()
    if dtype is not None:
        layer._input_quant_key = QuantKey(dtype, kDynamicTokenScale)
    layer.requires_unquantized_input = lora
    return layer


def fused_norm(consumer: torch.nn.Module) -> Any:
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm

    from octet.engine.vllm.inside.fused import QuantizingGemmaRMSNorm

    norm = QuantizingGemmaRMSNorm(GemmaRMSNorm(K, eps=1e-6), owner_of(consumer), "consumer")
    norm.weight.data = rows(K, seed=3)[0]
    return norm


def fused_activation(act_fn: Any, consumer: torch.nn.Module) -> Any:
    from octet.engine.vllm.inside.fused import QuantizingActivation

    return QuantizingActivation(act_fn, owner_of(consumer), "consumer")


def unequal_codes(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The share of codes that differ."""
    return float((ours.view(torch.uint8) != theirs.view(torch.uint8)).float().mean())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("shape", [(T, K), (1, T, K)])
def test_the_norm_hands_over_codes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The same as vLLM's norm and Octet's quantization after it, but for the order of a sum."""
    norm = fused_norm(linear_layer(dtype))
    x = rows(K, seed=1).view(shape)
    out = norm(x)
    codes, scale = torch.ops.octet.per_token_quant_fp8(norm.forward_native(x).view(T, K), dtype)
    assert out.quant_key.dtype == dtype
    assert out.orig_dtype == torch.bfloat16
    assert out.orig_shape == shape
    torch.testing.assert_close(out.scale, scale, rtol=2**-8, atol=0.0)
    assert unequal_codes(out.data, codes) < 0.01
    assert norm.operator == "gemma_rms_norm_quant_fp8"


def test_the_norm_updates_the_residual() -> None:
    """Both normalize the sum before it is rounded: the codes are equal, but for the order of a sum."""
    norm = fused_norm(linear_layer(torch.float8_e4m3fn))
    x, residual = rows(K, seed=1), rows(K, seed=2)
    normalized, total = norm.forward_native(x, residual.clone())
    out, updated = norm(x, residual)
    assert updated.data_ptr() == residual.data_ptr()
    assert torch.equal(updated, total)
    codes, scale = torch.ops.octet.per_token_quant_fp8(normalized, torch.float8_e4m3fn)
    torch.testing.assert_close(out.scale, scale, rtol=1e-6, atol=0.0)
    assert unequal_codes(out.data, codes) <= 0.001


@pytest.mark.parametrize(
    "consumer",
    [linear_layer(None), linear_layer(torch.float8_e4m3fn, lora=True)],
    ids=["unquantized", "LoRA"],
)
def test_other_consumers_get_what_vllm_computes(consumer: torch.nn.Module) -> None:
    from vllm.model_executor.layers.activation import GeluAndMul

    norm, act_fn = fused_norm(consumer), GeluAndMul(approximate="tanh")
    activation = fused_activation(act_fn, consumer)
    x, residual, gate_up = rows(K, seed=1), rows(K, seed=2), rows(2 * K, seed=4)
    assert torch.equal(norm(x), norm.forward_native(x))
    for ours, theirs in zip(norm(x, residual.clone()), norm.forward_native(x, residual.clone()), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(activation(gate_up), act_fn(gate_up))
    assert norm.operator is None
    assert activation.operator is None


def test_a_consumer_with_a_scale_for_the_whole_tensor_gets_what_vllm_computes() -> None:
    from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8DynamicTensorSym

    consumer = linear_layer(None)
    consumer._input_quant_key = kFp8DynamicTensorSym
    norm, x = fused_norm(consumer), rows(K, seed=1)
    assert torch.equal(norm(x), norm.forward_native(x))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["gelu_tanh_and_mul_quant_fp8", "silu_and_mul_quant_fp8"])
def test_activations_hand_over_codes(name: str, dtype: torch.dtype) -> None:
    from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul

    act_fn = GeluAndMul(approximate="tanh") if name.startswith("gelu") else SiluAndMul()
    activation = fused_activation(act_fn, linear_layer(dtype))
    gate_up = rows(2 * K, seed=4)
    out = activation(gate_up)
    codes, scale = torch.ops.octet.per_token_quant_fp8(act_fn.forward_native(gate_up), dtype)
    assert out.orig_shape == (T, K)
    assert out.quant_key.dtype == dtype
    torch.testing.assert_close(out.scale, scale, rtol=2**-8, atol=0.0)
    assert unequal_codes(out.data, codes) < 0.01
    assert activation.operator == name


def test_exact_gelu_stays_vllms() -> None:
    from vllm.model_executor.layers.activation import GeluAndMul

    act_fn = GeluAndMul(approximate="none")
    activation = fused_activation(act_fn, linear_layer(torch.float8_e4m3fn))
    gate_up = rows(2 * K, seed=4)
    assert torch.equal(activation(gate_up), act_fn(gate_up))
    assert activation.operator is None


def test_compiled_code_calls_the_operators() -> None:
    from vllm.model_executor.layers.activation import GeluAndMul

    consumer = linear_layer(torch.float8_e4m3fn)
    norm = fused_norm(consumer)
    activation = fused_activation(GeluAndMul(approximate="tanh"), consumer)

    def layer(x: torch.Tensor, residual: torch.Tensor, gate_up: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, residual = norm(x, residual)
        activated = activation(gate_up)
        return out.data, out.scale, residual, activated.data, activated.scale

    inputs = rows(K, seed=1), rows(K, seed=2), rows(2 * K, seed=4)
    expected = layer(*(each.clone() for each in inputs))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(compiled(*(each.clone() for each in inputs)), expected, strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


@pytest.fixture
def cutlass(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's CUTLASS kernel as Octet's plugin leaves it on CUDA."""
    from vllm.model_executor.kernels.linear import CutlassFP8ScaledMMLinearKernel

    from octet.engine.vllm.inside.linear import register_prequantized_input

    monkeypatch.setattr(
        CutlassFP8ScaledMMLinearKernel, "input_quant_key", CutlassFP8ScaledMMLinearKernel.input_quant_key
    )
    for _ in range(2):
        register_prequantized_input()
    return CutlassFP8ScaledMMLinearKernel


def test_cuda_gets_a_product_that_takes_codes(cutlass: Any) -> None:
    """Static scales keep their path."""
    from vllm.model_executor.layers.quantization.utils.quant_utils import (
        kFp8DynamicTensorSym,
        kFp8DynamicTokenSym,
        kFp8StaticTensorSym,
    )

    for key, taken in (
        (kFp8DynamicTokenSym, kFp8DynamicTokenSym),
        (kFp8StaticTensorSym, kFp8StaticTensorSym),
        (kFp8DynamicTensorSym, None),
    ):
        kernel = object.__new__(cutlass)
        kernel.config = SimpleNamespace(activation_quant_key=key)
        assert kernel.input_quant_key() == taken


def test_what_names_vllms_kernels_finds_them(cutlass: Any) -> None:
    """VLLM_DISABLED_KERNELS goes by the class's name, --linear-backend by the class: on CUDA both are vLLM's
    own.
    """
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    for platform in (PlatformEnum.CUDA, PlatformEnum.ROCM, PlatformEnum.XPU):
        assert all(k.__module__.startswith("vllm.") for k in linear._POSSIBLE_FP8_KERNELS[platform])
    kernels = linear._POSSIBLE_FP8_KERNELS[PlatformEnum.CUDA]
    assert linear._filter_kernels_by_backend("cutlass", kernels) == [cutlass]
    assert cutlass.__name__ == "CutlassFP8ScaledMMLinearKernel"


def pretended_gpu(monkeypatch: pytest.MonkeyPatch, capability: int) -> None:
    """Makes vLLM's kernels believe that they run on a GPU of this compute capability, such as 90.

    What they ask compiled code or the driver is answered by the rules of vLLM's own sources (0.32).
    """
    from vllm.model_executor.kernels.linear.scaled_mm import cutlass, marlin
    from vllm.platforms import PlatformEnum, current_platform
    from vllm.platforms.interface import DeviceCapability

    kind = type(current_platform)
    monkeypatch.setattr(kind, "_enum", PlatformEnum.CUDA)
    found = DeviceCapability(*divmod(capability, 10))
    monkeypatch.setattr(kind, "get_device_capability", classmethod(lambda cls, device_id=0: found))
    monkeypatch.setattr(cutlass, "cutlass_fp8_supported", lambda: capability >= 89)
    monkeypatch.setattr(marlin, "is_fp8_marlin_supported", lambda: capability >= 75)


@pytest.mark.parametrize(
    ("capability", "chosen", "quantizes"),
    [
        *((c, "MarlinFP8ScaledMMLinearKernel", False) for c in (75, 80, 86, 87)),
        *((c, "CutlassFP8ScaledMMLinearKernel", True) for c in (89, 90, 100, 103, 110, 120, 121)),
    ],
)
def test_from_which_gpu_on_activations_are_quantized(
    capability: int, chosen: str, quantizes: bool, cutlass: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.layers.quantization.utils.quant_utils import (
        kFp8DynamicTokenSym,
        kFp8StaticChannelSym,
    )

    from octet.engine.vllm import compat

    pretended_gpu(monkeypatch, capability)
    config = linear.FP8ScaledMMLinearLayerConfig(
        weight_quant_key=kFp8StaticChannelSym,
        activation_quant_key=kFp8DynamicTokenSym,
        weight_shape=(K, K),
        input_dtype=torch.bfloat16,
        out_dtype=torch.bfloat16,
    )
    kernel = linear.choose_scaled_mm_linear_kernel(
        config, linear._POSSIBLE_FP8_KERNELS, compute_capability=capability, quantization="fp8_w8a8"
    )
    assert kernel.__name__ == chosen
    assert compat.kernels.quantizes_activations(object.__new__(kernel)) == quantizes


def test_every_kernel_that_takes_activations_as_they_are_is_known() -> None:
    from vllm.model_executor.kernels import linear

    from octet.engine.vllm import compat

    everything = {kernel for kernels in linear._POSSIBLE_FP8_KERNELS.values() for kernel in kernels}
    as_they_are = {
        k.__name__ for k in everything if not compat.kernels.quantizes_activations(object.__new__(k))
    }
    assert {"MarlinFP8ScaledMMLinearKernel", "HummingFP8ScaledMMLinearKernel"} <= as_they_are
    assert as_they_are <= {
        *("MarlinFP8ScaledMMLinearKernel", "HummingFP8ScaledMMLinearKernel", "XPUW8A16FP8LinearKernel"),
        *("CPUFp8PerTensorScaledMMLinearKernel", "CPUFP8W8A8ScaledMMLinearKernel"),
    }


def test_the_log_says_where_octets_kernels_have_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.kernels.linear import (
        ChannelWiseTorchFP8ScaledMMLinearKernel,
        MarlinFP8ScaledMMLinearKernel,
    )
    from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

    from octet.engine.vllm.inside import quant

    lines: list[str] = []
    monkeypatch.setattr(quant.logger, "info_once", lambda text, *args, **_: lines.append(text % args))
    for kernel_class, group in (
        (MarlinFP8ScaledMMLinearKernel, GroupShape.PER_TOKEN),
        (ChannelWiseTorchFP8ScaledMMLinearKernel, GroupShape.PER_TOKEN),
        (ChannelWiseTorchFP8ScaledMMLinearKernel, GroupShape.PER_TENSOR),
    ):
        kernel = object.__new__(kernel_class)
        kernel.quant_fp8 = quant.OctetQuantFP8(static=False, group_shape=group)
        quant._tell(kernel)
    idle, active = lines
    assert "octet kernels idle: MarlinFP8ScaledMMLinearKernel" in idle
    assert "octet kernels active: per_token_quant_fp8=octet/" in active


def test_layers_of_experts_quantize_with_octets_kernel() -> None:
    """They call vLLM's quantization by itself; what is not dynamic per token stays vLLM's."""
    from vllm import _custom_ops
    from vllm.model_executor.layers.fused_moe.utils import moe_kernel_quantize_input

    from octet.ops import reference

    x, fp8 = rows(K, seed=1), torch.float8_e4m3fn
    expected = reference.per_token_quant_fp8(x)
    for q, scale in (
        moe_kernel_quantize_input(x, None, fp8, per_act_token_quant=True),
        _custom_ops.scaled_fp8_quant(x, use_per_token_if_dynamic=True),
        _custom_ops.scaled_fp8_quant(x, use_per_token_if_dynamic=True, output=torch.empty(T, K, dtype=fp8)),
        _custom_ops.scaled_fp8_quant(x, num_token_padding=T - 1, use_per_token_if_dynamic=True),
    ):
        assert torch.equal(q.view(torch.uint8), expected[0].view(torch.uint8))
        assert torch.equal(scale, expected[1])
    padded, scales = _custom_ops.scaled_fp8_quant(x, num_token_padding=17, use_per_token_if_dynamic=True)
    assert padded.shape == (17, K)
    assert scales.shape == (17, 1)
    assert torch.equal(padded[:T].view(torch.uint8), expected[0].view(torch.uint8))
    assert torch.equal(scales[:T], expected[1])
    bound = torch.tensor([0.5])
    q, scale = _custom_ops.scaled_fp8_quant(x, scale_ub=bound, use_per_token_if_dynamic=True)
    assert torch.equal(q.view(torch.uint8), reference.per_token_quant_fp8(x, fp8, bound)[0].view(torch.uint8))


def test_other_quantization_of_experts_stays_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    from vllm import _custom_ops

    from octet.engine.vllm import compat

    calls: list[tuple[Any, ...]] = []

    def stock(*arguments: Any) -> None:
        calls.append(arguments)

    monkeypatch.setattr(_custom_ops, "scaled_fp8_quant", stock)
    never: Any = lambda *_, **__: pytest.fail("Octet's operator ran")  # noqa: E731
    compat.kernels.replace_per_token_quant(never, never)
    assert inspect.unwrap(_custom_ops.scaled_fp8_quant) is stock
    x, scale = rows(K, seed=1), torch.ones(1)
    _custom_ops.scaled_fp8_quant(x)
    _custom_ops.scaled_fp8_quant(x, scale)
    _custom_ops.scaled_fp8_quant(x, scale, use_per_token_if_dynamic=True, group_shape=(-1, 1))
    assert [call[1:] for call in calls] == [
        (None, None, None, False, None, None),
        (scale, None, None, False, None, None),
        (scale, None, None, True, None, (-1, 1)),
    ]


def two_norms(consumer: torch.nn.Module) -> tuple[Any, Any]:
    """The norm after a sublayer, and the one that follows it before `consumer`."""
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm

    from octet.engine.vllm.inside.fused import PendingGemmaRMSNorm

    after = PendingGemmaRMSNorm(GemmaRMSNorm(K, eps=1e-6))
    after.weight.data = rows(K, seed=7)[0]
    before = fused_norm(consumer)
    before.follows_norm = True
    return after, before


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_what_lies_between_two_sublayers_is_one_operator(dtype: torch.dtype) -> None:
    after, before = two_norms(linear_layer(dtype))
    x, residual = rows(K, seed=1), rows(K, seed=2)
    theirs, total = before.forward_native(after.forward_native(x), residual.clone())
    out, updated = before(after(x), residual)
    assert updated.data_ptr() == residual.data_ptr()
    torch.testing.assert_close(updated, total, rtol=2**-7, atol=2**-6)
    codes, scale = torch.ops.octet.per_token_quant_fp8(theirs, dtype)
    torch.testing.assert_close(out.scale, scale, rtol=2**-8, atol=0.0)
    assert unequal_codes(out.data, codes) < 0.01
    assert out.orig_shape == (T, K)
    assert before.operator == "gemma_norm_add_norm_quant_fp8"


@pytest.mark.parametrize(
    "consumer",
    [linear_layer(None), linear_layer(torch.float8_e4m3fn, lora=True)],
    ids=["unquantized", "LoRA"],
)
def test_two_norms_before_other_consumers(consumer: torch.nn.Module) -> None:
    after, before = two_norms(consumer)
    x, residual = rows(K, seed=1), rows(K, seed=2)
    theirs, total = before.forward_native(after.forward_native(x), residual.clone())
    ours, updated = before(after(x), residual)
    torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=2**-5)
    torch.testing.assert_close(updated, total, rtol=2**-7, atol=2**-6)
    assert before.operator is None


def test_whatever_else_reads_a_pending_norm_fails_aloud() -> None:
    after, _ = two_norms(linear_layer(torch.float8_e4m3fn))
    pending = after(rows(K, seed=1))
    with pytest.raises((TypeError, AttributeError)):
        pending + rows(K, seed=2)
    with pytest.raises((TypeError, AttributeError)):
        torch.nn.functional.linear(pending, torch.ones(3, K))


def test_inductor_makes_no_kernel_of_what_lies_between_two_sublayers() -> None:
    """Compiled, the whole chain is one call; what Inductor makes of vLLM's own is a kernel at least."""
    from torch._inductor import metrics

    after, before = two_norms(linear_layer(torch.float8_e4m3fn))

    def chain(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out, residual = before(after(x), residual)
        return out.data, out.scale, residual

    x, residual = rows(K, seed=1), rows(K, seed=2)
    expected = chain(x, residual.clone())
    torch._dynamo.reset()
    metrics.reset()
    for ours, theirs in zip(torch.compile(chain, fullgraph=True)(x, residual.clone()), expected, strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
    assert metrics.generated_kernel_count == 0


@pytest.mark.parametrize("shape", [(T, K), (T, 4, K)])
def test_norms_are_one_operator_where_they_are_not_compiled(shape: tuple[int, ...]) -> None:
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm

    from octet.engine.vllm.inside.fused import EagerGemmaRMSNorm

    norm = EagerGemmaRMSNorm(GemmaRMSNorm(K, eps=1e-6))
    norm.weight.data = rows(K, seed=3)[0]
    x = torch.randn(*shape[:-1], K + 8, generator=torch.Generator().manual_seed(0)).bfloat16()[..., 4:-4]
    with torch.profiler.profile() as trace:
        ours = norm(x)
    called = {event.key for event in trace.key_averages()}
    assert "octet::gemma_rms_norm" in called
    assert not {name for name in called if name.startswith("aten::") and "empty" not in name}
    torch.testing.assert_close(ours, norm.forward_native(x), rtol=2**-7, atol=2**-7)
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compile(norm, backend=backend, fullgraph=True)(x)
    assert "octet" not in graphs[0].code


class Level:
    """`vllm.config.vllm` as far as its optimization levels go."""

    def __init__(self, *passes: Any) -> None:
        self.enable_norm_fusion = lambda config: config.wants_it
        self.OPTIMIZATION_LEVEL_TO_CONFIG = {
            number: {
                "compilation_config": {"pass_config": {"fuse_norm_quant": value or self.enable_norm_fusion}}
            }
            for number, value in enumerate(passes)
        }

    def value(self, number: int) -> Any:
        return self.OPTIMIZATION_LEVEL_TO_CONFIG[number]["compilation_config"]["pass_config"][
            "fuse_norm_quant"
        ]


@pytest.mark.parametrize("strategy", ["token", "tensor"])
def test_norms_are_fused_with_octets_quantization_where_there_is_one(strategy: str) -> None:
    from octet.engine.vllm import compat, plugin

    weights = {"num_bits": 8, "type": "float", "strategy": "channel"}
    inputs = {"num_bits": 8, "type": "float", "strategy": strategy, "dynamic": True}
    own = {
        "quant_method": "compressed-tensors",
        "config_groups": {"0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}},
    }
    level = Level(None, "no")
    for _ in range(2):
        compat.kernels.enable_by_default(level, plugin._quantizes_per_token)
    assert level.value(1) == "no"

    def decided(wants_it: bool, quantization: Any) -> bool:
        model = SimpleNamespace(hf_config=SimpleNamespace(quantization_config=quantization))
        return bool(level.value(0)(SimpleNamespace(wants_it=wants_it, model_config=model)))

    assert decided(False, own) == (strategy == "token")
    assert decided(True, own)
    # What cannot be read is vLLM's to refuse, and not to be raised out of its own deciding.
    assert not decided(False, own | {"config_groups": None})
    assert not decided(False, None)
    assert not level.value(0)(SimpleNamespace(wants_it=False, model_config=None))
