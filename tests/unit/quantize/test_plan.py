"""Which layers are quantized: llm-compressor's meaning of targets and ignore."""

from pathlib import Path

import pytest

from octet.quantize.options import Format, Options
from octet.quantize.plan import Plan, make_plan
from octet.quantize.source import open_source

GOLDEN = Path(__file__).parents[2] / "quantize/golden"


def plan_of(name: str, **options: object) -> Plan:
    return make_plan(open_source(str(GOLDEN / name / "source")), Options(**options))  # type: ignore[arg-type]


def quantized(plan: Plan) -> set[str]:
    return {t.source.name.removesuffix(".weight") for shard in plan.shards for t in shard.tensors if t.scale}


DOWN = {f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)}
FIRST = {
    f"model.layers.0.{module}"
    for module in (
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    )
}
ALL = FIRST | {name.replace("layers.0", "layers.1") for name in FIRST}


@pytest.mark.parametrize(
    ("targets", "ignore", "expected"),
    [
        (("Linear",), ("lm_head",), ALL),
        (("Linear",), (), ALL),  # the output layer stays, whatever is ignored
        (("re:.*down_proj",), (), DOWN),
        (("re:.*down_proj$", "lm_head"), (), DOWN),
        (("re:.*down",), (), DOWN),  # a regular expression matches from the name's start, not to its end
        (("re:model.layers.0.*",), (), FIRST),
        (("Linear",), ("re:model\\.layers\\.1\\..*", "lm_head"), FIRST),
        (("model.layers.1.mlp.down_proj",), (), {"model.layers.1.mlp.down_proj"}),
        (("Linear",), ("re:down_proj", "lm_head"), ALL),  # matches nothing: no name starts so
        (("Linear",), ("down_proj", "lm_head"), ALL),
    ],
)
def test_targets_and_ignore(targets: tuple[str, ...], ignore: tuple[str, ...], expected: set[str]) -> None:
    plan = plan_of("llama-bfloat16-untied", targets=targets, ignore=ignore)
    assert quantized(plan) == expected
    assert set(plan.ignored) == (ALL | {"lm_head"}) - expected


def test_layers_that_are_left_alone_are_listed_in_the_model_s_order() -> None:
    plan = plan_of("gemma3-bfloat16-tied", targets=("re:.*layers.0.mlp.up_proj",), ignore=())
    assert plan.ignored[:2] == (
        "vision_tower.vision_model.encoder.layers.0.self_attn.k_proj",
        "vision_tower.vision_model.encoder.layers.0.self_attn.v_proj",
    )
    assert plan.ignored[6] == "language_model.model.layers.0.self_attn.q_proj"
    assert plan.ignored[-1] == "lm_head"


@pytest.mark.parametrize(
    ("name", "weights", "scale"),
    [
        ("llama-bfloat16-untied", Format.E4M3, "BF16"),
        ("llama-bfloat16-untied", Format.E5M2, "BF16"),
        ("llama-float16-tied", Format.E4M3, "F16"),
        ("llama-float16-tied", Format.E5M2, "F32"),
        ("llama-float32-untied", Format.E5M2, "F32"),
    ],
)
def test_dtypes_and_shapes(name: str, weights: Format, scale: str) -> None:
    for shard in plan_of(name, weights=weights).shards:
        for tensor in shard.tensors:
            if tensor.scale is None:
                assert (tensor.target.dtype, tensor.target.shape) == (
                    tensor.source.dtype,
                    tensor.source.shape,
                )
            else:
                assert (tensor.target.dtype, tensor.target.shape) == (weights.dtype_name, tensor.source.shape)
                assert (tensor.scale.dtype, tensor.scale.shape) == (scale, (tensor.source.shape[0], 1))
                assert tensor.scale.name == tensor.source.name + "_scale"
