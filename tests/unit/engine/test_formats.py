"""Octet's checkpoint formats: what a config may say, and where each pair of formats is served."""

from typing import Any

import pytest

from octet.engine.vllm import formats, kernels
from octet.engine.vllm.formats import FORMATS, FormatPair
from octet.errors import StartupError

GOOD = {"quant_method": "octet_fp8", "weights": "e5m2", "activations": "e4m3"}
PAIRS = [FormatPair(weights, activations) for weights in FORMATS for activations in FORMATS]


def test_a_config() -> None:
    config = GOOD | {"ignore": ["lm_head", "re:vision_tower.*"]}
    assert formats.read_config(config) == (FormatPair("e5m2", "e4m3"), ["lm_head", "re:vision_tower.*"])
    assert formats.read_config(GOOD) == (FormatPair("e5m2", "e4m3"), [])
    assert formats.read_config(GOOD | {"vocabulary": True}) == formats.read_config(GOOD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "e3m4"}, "quantization_config.weights: 'e3m4' is neither 'e4m3' nor 'e5m2'"),
        ({"activations": None}, "quantization_config.activations: None is neither"),
        ({"ignore": "lm_head"}, "quantization_config.ignore: is not a list of names"),
        ({"ignore": [1]}, "quantization_config.ignore: is not a list of names"),
        ({"vocabulary": "yes"}, "quantization_config.vocabulary: is neither true nor false"),
        ({"vocabulary": 1}, "quantization_config.vocabulary: is neither true nor false"),
        ({"kv_cache_scheme": None}, "quantization_config.kv_cache_scheme: octet_fp8 knows no such setting"),
    ],
)
def test_a_wrong_config_names_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formats.read_config(GOOD | change)


@pytest.fixture
def cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which Octet's CUDA kernels can be used."""
    monkeypatch.setattr(kernels, "unavailable_reason", lambda device: None)


@pytest.mark.usefixtures("cuda_kernels")
def test_every_pair_but_one_is_served_on_both() -> None:
    assert [formats.refusal(pair, "cpu") for pair in PAIRS] == [None] * 4
    refused = [pair for pair in PAIRS if formats.refusal(pair, "cuda")]
    assert refused == [FormatPair("e5m2", "e5m2")]


@pytest.mark.usefixtures("cuda_kernels")
def test_what_cuda_cannot_multiply_names_the_alternatives() -> None:
    reason = formats.refusal(FormatPair("e5m2", "e5m2"), "cuda")
    assert reason is not None
    assert "\n" not in reason
    for alternative in ("--weights e4m3", "--activations e4m3", "CPU"):
        assert alternative in reason


def test_other_platforms_get_what_vllm_does_itself() -> None:
    refused = [pair for pair in PAIRS if formats.refusal(pair, "rocm")]
    assert refused == [pair for pair in PAIRS if pair != FormatPair("e4m3", "e4m3")]
    assert "not on rocm" in str(formats.refusal(FormatPair("e4m3", "e5m2"), "rocm"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_octets_kernels_only_vllms_pair_is_served(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTET_KERNELS", "off")
    assert formats.refusal(FormatPair("e4m3", "e4m3"), device) is None
    reason = formats.refusal(FormatPair("e5m2", "e4m3"), device)
    assert reason is not None
    assert "OCTET_KERNELS=off" in reason
    assert "unset OCTET_KERNELS" in reason


def test_an_extension_without_the_devices_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "unavailable_reason", lambda device: f"built without kernels for {device}")
    assert formats.refusal(FormatPair("e4m3", "e4m3"), "cuda") is None
    reason = formats.refusal(FormatPair("e4m3", "e5m2"), "cuda")
    assert reason == (
        "E4M3 weights with E5M2 activations needs Octet's kernels: built without kernels for cuda"
    )


def test_the_switch_takes_on_and_off_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTET_KERNELS", "perhaps")
    with pytest.raises(StartupError, match="neither 'on' nor 'off'"):
        formats.refusal(FormatPair("e5m2", "e4m3"), "cpu")
