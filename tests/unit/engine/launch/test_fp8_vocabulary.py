"""--fp8-vocabulary, as far as a model's configuration tells whether it can have an effect."""

from types import SimpleNamespace
from typing import Any

import pytest

from octet.engine.vllm import formats, kernels
from octet.engine.vllm.launch import fp8_vocabulary
from octet.errors import StartupError


def config(**model: Any) -> Any:
    said = {"model": "org/name", "runner_type": "generate", "dtype": "bf16", "head_dtype": "bf16"}
    return SimpleNamespace(
        additional_config={formats.FP8_VOCABULARY: True}, model_config=SimpleNamespace(**said | model)
    )


def test_a_model_that_writes_is_fine() -> None:
    fp8_vocabulary.check(config())


@pytest.mark.parametrize(
    ("model", "switch", "problem"),
    [
        ({"runner_type": "pooling"}, "on", "org/name makes vectors, and has no output layer; leave it out"),
        ({}, "off", "needs Octet's kernels, and OCTET_KERNELS=off leaves vLLM's own; unset it"),
        ({"head_dtype": "f32"}, "on", "wants logits of f32 products (head_dtype), where FP8 gives bf16"),
    ],
)
def test_where_it_could_have_none_the_start_fails_in_one_line(
    model: dict[str, Any], switch: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kernels.SWITCH, switch)
    with pytest.raises(StartupError) as raised:
        fp8_vocabulary.check(config(**model))
    assert str(raised.value).startswith("--fp8-vocabulary: ")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)
    unasked = config(**model)
    for unasked.additional_config in ({}, {formats.FP8_VOCABULARY: False}, SimpleNamespace()):
        fp8_vocabulary.check(unasked)
