"""Where the profile of a step puts what it sees."""

from types import SimpleNamespace
from typing import Any

import pytest

from bench import step_profile as profile
from bench.step_profile import MODEL, VOCABULARY, WORKER, group_of


def event(*names: str) -> Any:
    """The last of these, each a part of the one before."""
    found = None
    for name in names:
        found = SimpleNamespace(name=name, cpu_parent=found)
    return found


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (("aten::empty",), None),
        ((WORKER,), profile.AROUND),
        ((WORKER, "aten::copy_"), profile.AROUND),
        ((WORKER, MODEL), profile.BETWEEN),
        ((WORKER, MODEL, "Torch-Compiled Region: 0/0"), profile.BETWEEN),
        ((WORKER, MODEL, "Torch-Compiled Region: 0/0", "octet::fp8_linear"), profile.PRODUCTS),
        ((WORKER, MODEL, "octet::fp8_linear", "aten::empty"), profile.PRODUCTS),
        ((WORKER, MODEL, "octet::rms_norm_quant_fp8"), profile.ROWS),
        ((WORKER, MODEL, "vllm::unified_attention_with_output", "aten::view"), profile.ATTENTION),
        ((WORKER, MODEL, "graph_0_cpp_fused_mul_3"), profile.INDUCTOR),
        ((WORKER, MODEL, "aten::embedding"), profile.OTHERS),
        ((WORKER, VOCABULARY, "octet::fp8_linear"), profile.OUTPUT),
    ],
)
def test_events_belong_to_the_outermost_operator(names: tuple[str, ...], group: str | None) -> None:
    assert group_of(event(*names)) == group


def test_the_table_has_every_group() -> None:
    assert len(set(profile.GROUPS)) == len(profile.GROUPS)
    zero = dict.fromkeys(profile.GROUPS, 0.0)
    rendered = profile.table(
        {"batch": 1, "step_s": 0.04, "profiled_step_s": 0.05, "seconds": zero, "calls": zero}
    )
    assert rendered.row_count == len(profile.GROUPS)
