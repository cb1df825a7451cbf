"""Which modules are one layer to vLLM, and which patterns name it."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from octet.loading import naming

ATTENTION = tuple(f"model.layers.0.self_attn.{name}_proj" for name in "qkvo")


def parts(*modules: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(layer.names, tuple(layer.parts)) for layer in naming.layers(modules)]


def test_modules_of_one_parent_are_put_together() -> None:
    fused, output = parts(*ATTENTION)
    assert fused == (("model.layers.0.self_attn.qkv_proj",), ATTENTION[:3])
    assert output == ((ATTENTION[3],), (ATTENTION[3],))
    assert parts("a.q_proj", "b.k_proj") == [(("a.q_proj",), ("a.q_proj",)), (("b.k_proj",), ("b.k_proj",))]
    assert parts("q_proj", "k_proj") == [(("qkv_proj",), ("q_proj", "k_proj"))]


def test_experts_are_one_layer_and_those_that_all_share_another() -> None:
    names = [f"mlp.experts.{n}.{part}_proj" for n in (0, 10) for part in ("gate", "up", "down")]
    experts, shared = naming.layers([*names, "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"])
    assert experts.experts
    assert list(experts.parts) == names
    assert not shared.experts
    assert list(shared.parts) == ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"]


def test_parts_have_vllm_s_names_and_what_it_passes_over_is_left_out() -> None:
    (layer,) = naming.layers(
        ["model.text.q_proj", "model.text.k_proj", "model.mtp.q_proj"],
        lambda name: None if "mtp" in name else name.replace("model.text", "text.model"),
    )
    assert layer.names == ("text.model.qkv_proj",)
    assert layer.parts == {"model.text.q_proj": "text.model.q_proj", "model.text.k_proj": "text.model.k_proj"}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a.qkv_proj"], ["a.q_proj", "a.k_proj", "a.v_proj"]),
        (["re:.*qkv"], ["a.q_proj", "a.k_proj", "a.v_proj"]),
        (["a.q_proj"], ["a.q_proj"]),
        ([r"re:.*\.(q|v)_proj"], ["a.q_proj", "a.v_proj"]),
        (["re:a", "a.q_proj"], ["a.q_proj", "a.k_proj", "a.v_proj"]),
        (["a", "q_proj", "re:q_proj", "Linear", "re:*"], []),
    ],
)
def test_patterns_name_a_layer_or_its_parts(patterns: list[str], expected: list[str]) -> None:
    (layer,) = naming.layers(["a.q_proj", "a.k_proj", "a.v_proj"])
    assert naming.ignored_parts(layer, patterns) == expected


@pytest.mark.parametrize("pattern", ["re:*.foo", "re:(", "re:[a", "re:a{2,1}", "re:(?P<1>)", "re:\\"])
def test_what_is_no_regular_expression(pattern: str) -> None:
    assert naming.flaw(pattern)
    assert not naming.matches(pattern, "foo")


@pytest.mark.parametrize("pattern", ["*.foo", "(", "re:.*", "re:", ""])
def test_what_is_one_or_a_name(pattern: str) -> None:
    assert naming.flaw(pattern) is None


def test_numbers_in_names_are_starred() -> None:
    assert naming.kind("model.layers.10.mlp.experts.3.w1") == "model.layers.*.mlp.experts.*.w1"
    assert naming.kind("0.linear_1.2") == "*.linear_1.*"


def declared() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names and parts of fused layers that vLLM's models declare, as literals."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    for path in (Path(spec.origin).parent / "model_executor/models").rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "packed_modules_mapping" in text else ():
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            named = any(isinstance(t, ast.Name) and t.id == "packed_modules_mapping" for t in targets)
            if named and isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.List):
                        parts = [part.value for part in value.elts if isinstance(part, ast.Constant)]
                        yield str(key.value), tuple(map(str, parts))


def test_what_most_of_vllm_s_models_fuse_is_known() -> None:
    """Layers that three or more of its models make of several; what fewer do is theirs alone."""
    found = [each for each in declared() if len(each[1]) > 1]
    assert len(found) > 200
    common = {each for each in found if found.count(each) >= 3}
    known = {parts for _, parts in naming.FUSED}
    elsewhere = {("wk", "weights_proj"), ("gate_proj", "up_proj"), *known}
    assert {parts for _, parts in common} <= elsewhere
    assert set(naming.FUSED) <= set(found)
