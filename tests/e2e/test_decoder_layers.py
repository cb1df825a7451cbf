"""Decoder layers as vLLM builds them, with Octet's operators in them: which run, and what they compute.

Attention itself is left out: it takes what lies in a cache. The layers' own forward, and that of vLLM without
Octet, get everything else.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from octet.engine.vllm import plugin
from octet.engine.vllm.formats import FormatPair
from octet.engine.vllm.inside import octet_fp8
from octet.ops import reference

TOKENS, HIDDEN, HEADS, KV_HEADS, HEAD, INNER = 7, 128, 4, 2, 32, 192
DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
MODULES = ("gemma3", "llama", "mistral", "qwen2", "qwen3")


class Attention(torch.nn.Module):
    """In the place of vLLM's: remembers what it is given, and gives the queries back."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.seen: tuple[torch.Tensor, ...] = ()

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.seen = (q.clone(), k.clone(), v.clone())
        return q


@pytest.fixture(autouse=True)
def building(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is current while vLLM builds a model: its configuration, and a rank that is alone."""
    import importlib

    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear

    plugin.register()
    models = [importlib.import_module(f"vllm.model_executor.models.{name}") for name in MODULES]
    for module in (parameter, linear, *models):
        for name, value in (("rank", 0), ("world_size", 1)):
            monkeypatch.setattr(
                module, f"get_tensor_model_parallel_{name}", lambda value=value: value, raising=False
            )
    for module in models:
        monkeypatch.setattr(module, "Attention", Attention, raising=False)
    config = VllmConfig()
    config.model_config = SimpleNamespace(dtype=torch.bfloat16)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.no_grad(), set_current_vllm_config(config):
        yield
    torch.set_default_dtype(default)


def quantization(pair: FormatPair) -> Any:
    json = {"quant_method": "octet_fp8", "weights": pair.weights, "activations": pair.activations}
    config = octet_fp8.OctetFP8Config.from_config(json)
    config.packed_modules_mapping = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    return config


def settings_of(kind: str, **more: Any) -> Any:
    """A configuration of transformers'."""
    import transformers

    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "max_position_embeddings": 64,
        "vocab_size": 32,
    }
    return getattr(transformers, kind)(**(sizes | more))


def llama(quant_config: Any, **more: Any) -> Any:
    from vllm.model_executor.models.llama import LlamaDecoderLayer

    hf_config = settings_of("LlamaConfig", **more)
    config = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=hf_config), cache_config=None, quant_config=quant_config
    )
    return LlamaDecoderLayer(config, prefix="layers.0")


def mistral(quant_config: Any) -> Any:
    from vllm.model_executor.models.mistral import MistralDecoderLayer

    hf_config = settings_of("MistralConfig")
    config = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=hf_config), cache_config=None, quant_config=quant_config
    )
    return MistralDecoderLayer(config, prefix="layers.0")


def qwen2(quant_config: Any) -> Any:
    from vllm.model_executor.models.qwen2 import Qwen2DecoderLayer

    return Qwen2DecoderLayer(settings_of("Qwen2Config"), quant_config=quant_config, prefix="layers.0")


def qwen3(quant_config: Any) -> Any:
    from vllm.model_executor.models.qwen3 import Qwen3DecoderLayer

    return Qwen3DecoderLayer(settings_of("Qwen3Config"), quant_config=quant_config, prefix="layers.0")


def gemma3(quant_config: Any) -> Any:
    from vllm.model_executor.models import gemma3

    config = settings_of("Gemma3TextConfig", query_pre_attn_scalar=HEAD)
    return gemma3.Gemma3DecoderLayer(config, quant_config=quant_config, prefix="layers.0")


def half_llama(quant_config: Any) -> Any:
    """Whose heads are turned by half only."""
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return llama(quant_config, rope_parameters=parameters)


def scaled_llama(quant_config: Any) -> Any:
    """Whose angles are scaled as Llama 3's are."""
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    return llama(quant_config, rope_parameters=parameters)


LAYERS: list[Callable[[Any], Any]] = [llama, half_llama, scaled_llama, mistral, qwen2, qwen3, gemma3]
layers = pytest.mark.parametrize("build", LAYERS, ids=lambda build: build.__name__)


def loaded(build: Callable[[Any], Any], pair: FormatPair | None) -> Any:
    """A layer with random weights, in bf16 where there is no pair of formats."""
    layer = build(None if pair is None else quantization(pair))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in layer.named_parameters():
        if parameter.dim() == 1:
            centre = 0.0 if build is gemma3 or name.endswith("bias") else 1.0
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * 0.2 + centre
            )
    for module in layer.modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.dim() != 2:
            continue
        values = torch.randn(weight.shape, generator=generator, dtype=torch.float32) * 0.08
        if pair is None:
            weight.copy_(values)
        else:
            codes, scale = reference.per_token_quant_fp8(values, DTYPES[pair.weights])
            weight.view(torch.uint8).copy_(codes.view(torch.uint8))
            module.weight_scale.copy_(scale)
        module.quant_method.process_weights_after_loading(module)
    return layer


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, hidden states and residual."""
    generator = torch.Generator().manual_seed(9)
    hidden, residual = torch.randn(2, TOKENS, HIDDEN, generator=generator, dtype=torch.float32).bfloat16()
    return torch.arange(3, 3 + TOKENS), hidden, residual


def run(layer: Any, *, with_residual: bool = True) -> dict[str, torch.Tensor]:
    positions, hidden, residual = inputs()
    out, residual = layer(positions, hidden, residual if with_residual else None)
    if not isinstance(out, torch.Tensor):  # a norm that the next layer is to compute
        out = out.x
    q, k, v = layer.self_attn.attn.seen
    return {"out": out, "residual": residual, "q": q, "k": k, "v": v}


def without_octet(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the layer vLLM's norms, activation and rotation."""
    attention = layer.self_attn
    stock = inspect.unwrap(type(attention).forward)
    monkeypatch.setattr(attention, "forward", functools.partial(stock, attention))
    for linear in (attention.qkv_proj, layer.mlp.gate_up_proj, layer.mlp.down_proj):
        linear.requires_unquantized_input = True


def called(function: Callable[[], object]) -> dict[str, int]:
    """How often each operator is called, but for views and empty tensors."""
    with torch.profiler.profile() as trace:
        function()
    counts = {event.key: event.count for event in trace.key_averages()}
    return {name: count for name, count in counts.items() if name.startswith("octet::")}


@layers
@pytest.mark.parametrize("pair", [FormatPair("e4m3", "e4m3"), FormatPair("e5m2", "e4m3")], ids=str)
@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", "first"])
def test_a_layer_computes_what_vllms_does(
    build: Callable[[Any], Any], pair: FormatPair, with_residual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To what bf16 and FP8 leave: vLLM's rotation rounds in more places, and that tips codes further on."""
    layer = loaded(build, pair)
    ours = run(layer, with_residual=with_residual)
    without_octet(layer, monkeypatch)
    theirs = run(layer, with_residual=with_residual)
    for name, value in theirs.items():
        scale = value.float().abs().max()
        error = (ours[name].float() - value.float()).abs()
        assert error.max() <= (0.12 if name == "out" else 0.06) * scale, name
        assert error.mean() <= {"v": 0.0005, "q": 0.004, "k": 0.004}.get(name, 0.012) * scale, name


@layers
def test_a_layer_without_quantization_is_rotated_by_octet_too(
    build: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = loaded(build, None)
    assert called(lambda: run(layer))["octet::qk_norm_rope"] == 1
    ours = run(layer)
    without_octet(layer, monkeypatch)
    for name, value in run(layer).items():
        torch.testing.assert_close(ours[name], value, rtol=2**-5, atol=2**-4, msg=name)


@layers
def test_a_layer_consists_of_these_operators(build: Callable[[Any], Any]) -> None:
    layer = loaded(build, FormatPair("e4m3", "e4m3"))
    counts = called(lambda: run(layer))
    expected = {"octet::fp8_linear": 4, "octet::per_token_quant_fp8": 1, "octet::qk_norm_rope": 1}
    if build is gemma3:
        expected |= {
            "octet::gelu_tanh_and_mul_quant_fp8": 1,
            "octet::gemma_rms_norm_quant_fp8": 1,
            "octet::gemma_norm_add_norm_quant_fp8": 1,
            "octet::gemma_rms_norm": 1,
        }
    else:
        expected |= {"octet::silu_and_mul_quant_fp8": 1, "octet::rms_norm_quant_fp8": 2}
    assert counts == expected


@pytest.mark.parametrize("build", [llama, qwen3], ids=lambda build: build.__name__)
def test_inductor_makes_no_kernel_of_a_layer(build: Callable[[Any], Any]) -> None:
    """Compiled it is calls of these operators and of nothing else, and computes the same bits."""
    from torch._inductor import metrics

    layer = loaded(build, FormatPair("e4m3", "e4m3"))
    expected = run(layer)
    torch._dynamo.reset()
    metrics.reset()
    out, residual = torch.compile(layer, fullgraph=True)(*inputs())
    assert torch.equal(out, expected["out"])
    assert torch.equal(residual, expected["residual"])
    assert metrics.generated_kernel_count == 0


@pytest.mark.parametrize("build", [llama, qwen3, gemma3], ids=lambda build: build.__name__)
@pytest.mark.parametrize("change", ["pictures", "interleaved", "other class", "other norm"])
def test_other_rotations_stay_vllms(build: Callable[[Any], Any], change: str) -> None:
    from octet.engine.vllm.inside import rotary

    attention = loaded(build, FormatPair("e4m3", "e4m3")).self_attn
    positions, hidden, _ = inputs()
    if change == "pictures":
        positions = positions.expand(3, -1)
    elif change == "interleaved":
        attention.rotary_emb.is_neox_style = False
    elif change == "other class":

        class Other(type(attention.rotary_emb)):  # type: ignore[misc]
            def forward_native(self, *arguments: Any) -> Any:
                return super().forward_native(*arguments)

        attention.rotary_emb.__class__ = Other
    else:
        attention.q_norm, attention.k_norm = torch.nn.Identity(), torch.nn.Identity()
    asked = []

    def stock(*arguments: Any) -> torch.Tensor:
        asked.append(arguments)
        return hidden

    assert rotary.forward(stock, attention, positions, hidden) is hidden
    assert len(asked) == 1


def test_a_norm_whose_output_is_changed_before_it_is_multiplied_stays_vllms() -> None:
    from vllm.model_executor.layers.layernorm import RMSNorm

    from octet.engine.vllm.inside import rms_norm_layers

    layer = torch.nn.Module()
    layer.ada_rms_norm_t_cond = torch.nn.Identity()
    layer.self_attn, layer.mlp = torch.nn.Module(), torch.nn.Module()
    layer.mlp.act_fn = torch.nn.Identity()
    layer.input_layernorm, layer.post_attention_layernorm = RMSNorm(HIDDEN), RMSNorm(HIDDEN)
    rms_norm_layers._fuse(layer)
    assert type(layer.input_layernorm) is rms_norm_layers.QuantizingRMSNorm
    assert type(layer.post_attention_layernorm) is RMSNorm


def test_layers_derived_from_these_stay_as_they_are() -> None:
    from vllm.model_executor.models.llama import LlamaDecoderLayer

    from octet.engine.vllm.inside.rms_norm_layers import QuantizingRMSNorm

    class Derived(LlamaDecoderLayer):  # type: ignore[misc]
        pass

    config = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=settings_of("LlamaConfig")),
        cache_config=None,
        quant_config=None,
    )
    layer = Derived(config, prefix="layers.0")
    assert not any(isinstance(module, QuantizingRMSNorm) for module in layer.modules())
