"""Starts that fail, with the real vLLM: one line each, and nothing left running."""

import psutil  # type: ignore[import-untyped]
import pytest

from octet.engine.vllm.launch.args import parse_engine_args
from octet.engine.vllm.serving.engine import create_engine
from octet.errors import StartupError


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["/no/such/model"], "no such model: /no/such/model is not a directory"),
        (["MODEL", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["MODEL", "--max-model-len", "many"], "--max-model-len"),
        (["MODEL", "--max-output-tokens", "0"], "--max-output-tokens: 0 is not at least 1"),
        (["MODEL", "--worker-extension-cls", "x.Y"], "--worker-extension-cls"),
        (["MODEL", "--tool-call-parser", "no-such-parser"], "--tool-call-parser: vLLM knows no parser"),
        (["MODEL", "--reasoning-parser", "no-such-parser"], "--reasoning-parser: vLLM knows no parser"),
        (["MODEL", "--no-enable-auto-tool-choice"], "unrecognized arguments: --no-enable-auto-tool-choice"),
        (["MODEL", "--chat-template", "/no/such/template.jinja"], "--chat-template"),
    ],
)
def test_wrong_flags(argv: list[str], message: str, model_path: str) -> None:
    with pytest.raises(StartupError) as raised:
        parse_engine_args([model_path if word == "MODEL" else word for word in argv])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_context_that_the_model_does_not_have(model_path: str) -> None:
    with pytest.raises(StartupError, match="max_model_len") as raised:
        await create_engine(parse_engine_args([model_path, "--max-model-len", "100000000"]))
    assert "\n" not in str(raised.value)


async def test_what_goes_wrong_in_a_worker_is_told_in_one_line(
    model_path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """All of the machine's memory cannot be had: the worker finds out, two processes away."""
    before = _engine_processes()
    with pytest.raises(StartupError, match="Available memory") as raised:
        await create_engine(parse_engine_args([model_path, "--gpu-memory-utilization", "1.0"]))
    assert "\n" not in str(raised.value)
    assert "Traceback" not in capfd.readouterr().err
    assert _engine_processes() <= before


def _engine_processes() -> set[psutil.Process]:
    return {p for p in psutil.Process().children(recursive=True) if "VLLM" in p.name()}
