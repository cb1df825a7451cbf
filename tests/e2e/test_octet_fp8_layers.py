"""Octet's quantization method in vLLM's layers: what they load, fused and sharded, and what they compute."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from octet.engine.vllm import formats, kernels, plugin
from octet.engine.vllm.formats import FORMATS, FormatPair
from octet.engine.vllm.inside import octet_fp8
from octet.ops import reference

PAIRS = [FormatPair(weights, activations) for weights in FORMATS for activations in FORMATS]
HIDDEN, HEADS, KV_HEADS, HEAD, TOKENS = 64, 4, 2, 16, 7
DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def config_of(pair: FormatPair, **more: Any) -> Any:
    """The config as vLLM would make it from a checkpoint's JSON."""
    json = {"quant_method": "octet_fp8", "weights": pair.weights, "activations": pair.activations}
    config = octet_fp8.OctetFP8Config.from_config(json | more)
    config.packed_modules_mapping = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    return config


@pytest.fixture(autouse=True)
def building(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What is current while vLLM builds a model: its configuration and a rank, which a test may change."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear

    plugin.register()
    rank = SimpleNamespace(rank=0, size=1)
    for module in (parameter, linear):
        monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda: rank.rank)
        monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: rank.size)
    config = VllmConfig()
    config.model_config = SimpleNamespace(dtype=torch.bfloat16)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with set_current_vllm_config(config):
        yield rank
    torch.set_default_dtype(default)


def tensors(rows: int, columns: int, name: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight as a checkpoint stores it: codes, and bf16 scales [rows, 1]."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float32) * 0.05
    codes, scale = reference.per_token_quant_fp8(weight, DTYPES[name])
    return codes, scale.to(torch.bfloat16)


def expected(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, activations: str) -> torch.Tensor:
    """The contract: x quantized per token, times the weight, in float64."""
    xq, x_scale = reference.per_token_quant_fp8(x, DTYPES[activations])
    return reference.fp8_linear(xq, x_scale, codes, scale.float())


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal up to the result's rounding to bf16 (2^-9) and f32 sums."""
    torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=1e-5)


def activations() -> torch.Tensor:
    return torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(9), dtype=torch.float32).to(
        torch.bfloat16
    )


def load(layer: Any, codes: torch.Tensor, scale: torch.Tensor, *shard: Any) -> None:
    layer.weight.weight_loader(layer.weight, codes, *shard)
    layer.weight_scale.weight_loader(layer.weight_scale, scale, *shard)


def finish(layer: Any) -> Any:
    layer.quant_method.process_weights_after_loading(layer)
    return layer


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_fused_qkv_layer(pair: FormatPair) -> None:
    from vllm.model_executor.layers.linear import QKVParallelLinear

    layer = QKVParallelLinear(
        HIDDEN, HEAD, HEADS, KV_HEADS, bias=False, quant_config=config_of(pair), prefix="attn.qkv_proj"
    )
    parts = {
        name: tensors(heads * HEAD, HIDDEN, pair.weights, seed)
        for seed, (name, heads) in enumerate({"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}.items())
    }
    for name, (codes, scale) in parts.items():
        load(layer, codes, scale, name)
    out, _ = finish(layer)(activations())
    close(out, torch.cat([expected(activations(), *p, pair.activations) for p in parts.values()], dim=1))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_fused_gate_and_up_layer(pair: FormatPair) -> None:
    from vllm.model_executor.layers.linear import MergedColumnParallelLinear

    layer = MergedColumnParallelLinear(
        HIDDEN, [96, 96], bias=False, quant_config=config_of(pair), prefix="mlp.gate_up_proj"
    )
    parts = [tensors(96, HIDDEN, pair.weights, seed) for seed in range(2)]
    for shard, (codes, scale) in enumerate(parts):
        load(layer, codes, scale, shard)
    out, _ = finish(layer)(activations())
    close(out, torch.cat([expected(activations(), *p, pair.activations) for p in parts], dim=1))


def test_ranks_share_a_columns_layer(building: Any) -> None:
    from vllm.model_executor.layers.linear import ColumnParallelLinear

    pair = FormatPair("e5m2", "e4m3")
    codes, scale = tensors(32, HIDDEN, pair.weights)
    outs = []
    building.size = 2
    for building.rank in range(2):
        layer = ColumnParallelLinear(HIDDEN, 32, bias=False, quant_config=config_of(pair), prefix="up_proj")
        load(layer, codes, scale)
        assert layer.weight_scale.shape == (16, 1)
        outs.append(finish(layer)(activations())[0])
    close(torch.cat(outs, dim=1), expected(activations(), codes, scale, pair.activations))


def test_ranks_share_a_rows_layer(building: Any) -> None:
    """Each rank quantizes its own half of the input, so the sum is of two quantized products."""
    from vllm.model_executor.layers.linear import RowParallelLinear

    pair = FormatPair("e4m3", "e5m2")
    codes, scale = tensors(32, HIDDEN, pair.weights)
    building.size = 2
    for building.rank in range(2):
        half = slice(building.rank * HIDDEN // 2, (building.rank + 1) * HIDDEN // 2)
        layer = RowParallelLinear(
            HIDDEN,
            32,
            bias=False,
            quant_config=config_of(pair),
            prefix="down_proj",
            reduce_results=False,
        )
        load(layer, codes, scale)
        x = activations()[:, half].contiguous()
        close(finish(layer)(x)[0], expected(x, codes[:, half], scale, pair.activations))


def replicated(config: Any, prefix: str = "model.layers.0.mlp.down_proj") -> Any:
    from vllm.model_executor.layers.linear import ReplicatedLinear

    return ReplicatedLinear(HIDDEN, 32, bias=False, quant_config=config, prefix=prefix)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_fused_producers_learn_what_the_layer_takes(pair: FormatPair) -> None:
    from vllm.model_executor.layers.fusion.quant_activation import QuantizedActivation, get_input_quant_key

    layer = replicated(config_of(pair))
    codes, scale = tensors(32, HIDDEN, pair.weights)
    load(layer, codes, scale)
    finish(layer)
    key = get_input_quant_key(layer)
    assert key is not None
    assert key.dtype == DTYPES[pair.activations]
    x = activations()
    xq, x_scale = reference.per_token_quant_fp8(x, DTYPES[pair.activations])
    given = QuantizedActivation(xq, x_scale, x.dtype, x.shape, key)
    assert torch.equal(layer(given)[0], layer(x)[0])


def test_ignored_layers_stay_as_they_are() -> None:
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    config = config_of(
        PAIRS[1], ignore=["model.layers.1.self_attn.o_proj", "re:vision_tower.*", "re:.*[qkv]_proj$"]
    )

    def method(prefix: str) -> type:
        return type(config.get_quant_method(replicated(None), prefix))

    assert method("model.layers.1.self_attn.o_proj") is UnquantizedLinearMethod
    assert method("model.layers.2.self_attn.o_proj") is octet_fp8.OctetFP8LinearMethod
    assert method("vision_tower.encoder.fc1") is UnquantizedLinearMethod
    assert method("model.layers.1.self_attn.qkv_proj") is UnquantizedLinearMethod
    assert config.get_quant_method(torch.nn.Embedding(2, 2), "embed_tokens") is None


def test_names_follow_vllms_model() -> None:
    from vllm.model_executor.models.utils import WeightsMapper

    config = config_of(PAIRS[1], ignore=["model.vision_tower.fc1", "re:vision_tower.*"])
    config.apply_vllm_mapper(WeightsMapper(orig_to_new_prefix={"model.vision_tower.": "vision_tower."}))
    assert config.ignore == ["vision_tower.fc1", "re:vision_tower.*"]


def test_half_a_fused_layer_cannot_be_ignored() -> None:
    config = config_of(PAIRS[1], ignore=["re:.*gate_proj"])
    with pytest.raises(ValueError, match="different quantization schemes"):
        config.get_quant_method(replicated(None), "mlp.gate_up_proj")


def test_codes_of_another_format_are_refused() -> None:
    layer = replicated(config_of(FormatPair("e5m2", "e4m3")))
    codes, _ = tensors(32, HIDDEN, "e4m3")
    with pytest.raises(
        ValueError, match=r"down_proj\.weight: the checkpoint holds torch\.float8_e4m3fn.* says e5m2"
    ):
        layer.weight.weight_loader(layer.weight, codes)


def test_a_missing_scale_is_refused() -> None:
    layer = replicated(config_of(FormatPair("e5m2", "e4m3")))
    codes, _ = tensors(32, HIDDEN, "e5m2")
    layer.weight.weight_loader(layer.weight, codes)
    with pytest.raises(ValueError, match=r"down_proj\.weight_scale must contain finite positive scales"):
        finish(layer)


def test_the_pair_that_cuda_cannot_multiply_is_refused_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(octet_fp8, "_platform", lambda: "cuda")
    monkeypatch.setattr(kernels, "unavailable_reason", lambda device: None)
    with pytest.raises(ValueError, match=r"CUDA multiplies no E5M2 weights with E5M2 activations.*e4m3"):
        config_of(FormatPair("e5m2", "e5m2"))
    for pair in PAIRS[:3]:
        assert config_of(pair).pair == pair


@pytest.mark.parametrize("pair", [FormatPair("e4m3", "e5m2"), FormatPair("e5m2", "e4m3")], ids=str)
def test_the_product_that_cuda_takes_for_mixed_pairs(
    pair: FormatPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch._scaled_mm exists on CPUs too: the same class, computing here."""
    monkeypatch.setattr(octet_fp8, "current_platform", SimpleNamespace(is_cpu=lambda: False))
    layer = replicated(octet_fp8.OctetFP8Config(pair, []))
    codes, scale = tensors(32, HIDDEN, pair.weights)
    load(layer, codes, scale)
    finish(layer)
    assert type(layer.quant_method.fp8_linear) is octet_fp8.MixedFP8LinearKernel
    x = activations()
    close(layer(x)[0], expected(x, codes, scale, pair.activations))


def test_cublas_sizes_are_checked_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.linear import ReplicatedLinear

    monkeypatch.setattr(octet_fp8, "current_platform", SimpleNamespace(is_cpu=lambda: False))
    config = octet_fp8.OctetFP8Config(FormatPair("e4m3", "e5m2"), [])
    with pytest.raises(ValueError, match=r"odd: .* cannot be multiplied: cuBLASLt wants .*\[24, 64\]"):
        ReplicatedLinear(HIDDEN, 24, bias=False, quant_config=config, prefix="odd")


def test_vllms_own_path_serves_its_pair_when_octet_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in a process where the switch kept Octet's kernels out of vLLM's lists."""
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    from octet.engine.vllm import compat

    stock = [k for k in linear._POSSIBLE_FP8_KERNELS[PlatformEnum.CPU] if k.__module__.startswith("vllm.")]
    monkeypatch.setenv(kernels.SWITCH, "off")
    monkeypatch.setitem(linear._POSSIBLE_FP8_KERNELS, PlatformEnum.CPU, stock)
    monkeypatch.delitem(compat.out_of_tree_ops(), "QuantFP8")
    pair = FormatPair("e4m3", "e4m3")
    layer = replicated(config_of(pair))
    codes, scale = tensors(32, HIDDEN, pair.weights)
    load(layer, codes, scale)
    finish(layer)
    assert type(layer.quant_method.fp8_linear).__module__.startswith("vllm.")
    x = activations()
    # vLLM's quantization multiplies by a reciprocal: a code here and there differs by one.
    torch.testing.assert_close(
        layer(x)[0].double(), expected(x, codes, scale, pair.activations), rtol=2**-7, atol=5e-3
    )
    with pytest.raises(ValueError, match="OCTET_KERNELS=off"):
        config_of(FormatPair("e5m2", "e4m3"))


def test_the_method_is_registered() -> None:
    from vllm.model_executor.layers.quantization import get_quantization_config

    assert get_quantization_config(formats.METHOD) is octet_fp8.OctetFP8Config
