"""Flags beside vLLM's own."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from octet.engine.vllm.launch.args import _adapters, _add_flags, _choose_backend, finder_of_calls
from octet.engine.vllm.launch.startup import _require_calls_found
from octet.errors import StartupError


def test_every_flag_beside_vllms_says_what_it_does() -> None:
    parser = argparse.ArgumentParser()
    _add_flags(parser)
    assert [flag.option_strings[0] for flag in parser._actions if not flag.help] == []


def test_the_help_of_the_engine_says_what_flags_do() -> None:
    # A process of its own: vLLM collects its texts where "--help" is on the command line only.
    command = [sys.executable, "-m", "octet", "serve", "--help-engine"]
    shown = " ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "Model context length (prompt and output)" in shown
    assert "How long a start waits for the other machines" in shown


def test_adapters_by_name() -> None:
    assert _adapters([], enabled=None) == {}
    modules = ["poet=/models/poet", "lawyer=org/law=1"]
    assert _adapters(modules, enabled=True) == {"poet": "/models/poet", "lawyer": "org/law=1"}


@pytest.mark.parametrize(
    ("modules", "enabled", "problem"),
    [
        (["poet=/models/poet"], None, "adapters need --enable-lora"),
        (["poet"], True, "poet is not NAME=PATH"),
        (["=path"], True, "=path is not NAME=PATH"),
        (["poet="], True, "poet= is not NAME=PATH"),
        (["a=1", "a=2"], True, "a is the name of two adapters"),
    ],
)
def test_wrong_adapters(modules: list[str], enabled: bool | None, problem: str) -> None:
    with pytest.raises(StartupError, match=r"^--lora-modules: ") as raised:
        _adapters(modules, enabled=enabled)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("parser", "model_type", "finder"),
    [
        (None, "gemma3", "gemma3"),
        (None, "gemma3_text", "gemma3"),
        ("gemma3", "llama", "gemma3"),
        ("hermes", "gemma3", "hermes"),
        ("hermes", "qwen3", "hermes"),
        (None, "llama", None),
    ],
)
def test_what_finds_calls(
    parser: str | None, model_type: str, finder: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """And by vLLM's rule for --enable-auto-tool-choice, something has to."""
    settings: Any = SimpleNamespace(tool_call_parser=parser)
    assert finder_of_calls(parser, model_type) == finder
    if finder is None:
        with pytest.raises(StartupError, match=r"^--enable-auto-tool-choice: needs --tool-call-parser"):
            _require_calls_found(settings, model_type)
        return
    with caplog.at_level("INFO"):
        _require_calls_found(settings, model_type)
    assert f"calls are always looked for; {finder} finds them here" in caplog.text


def engine_with(**config: Any) -> Any:
    defaults = {"backend": "auto", "disable_any_whitespace": False, "disable_additional_properties": False}
    return SimpleNamespace(structured_outputs_config=SimpleNamespace(**(defaults | config)))


@pytest.mark.parametrize("named", ["auto", "guidance"])
def test_one_library_follows_all_constraints(named: str) -> None:
    engine = engine_with(backend=named)
    _choose_backend(engine)
    assert engine.structured_outputs_config.backend == "guidance"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"backend": "xgrammar"}, "Octet serves with backend guidance only"),
        ({"backend": "outlines"}, "outlines does not hold answers"),
        ({"backend": "lm-format-enforcer"}, "leave it out"),
        ({"backend": "guidance", "disable_any_whitespace": True}, "JSON is compact"),
        ({"backend": "guidance", "disable_additional_properties": True}, "as each schema says"),
    ],
)
def test_flags_that_ask_for_other_constraints(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(StartupError, match=r"^--structured-outputs-config: ") as raised:
        _choose_backend(engine_with(**config))
    assert problem in str(raised.value)


# Importing vLLM takes seconds; whoever has mistyped a path shall not wait for it.
WRONG_MODEL = """
import sys
from octet.engine.vllm.launch.args import check_model
from octet.errors import StartupError
try:
    check_model(sys.argv[1:])
except StartupError as error:
    print(error)
print({"vllm", "torch"} & sys.modules.keys())
"""


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["/no/such/model"], "no such model: /no/such/model is not a directory\n"),
        (["./no-such-model", "--enforce-eager"], "no such model: ./no-such-model is not a directory\n"),
        (["EMPTY"], "no such model: EMPTY holds no config.json\n"),
        (["--enforce-eager", "--model", "/no/such"], "no such model: /no/such is not a directory\n"),
        (["--model=/no/such"], "no such model: /no/such is not a directory\n"),
        (["org/name", "--seed", "1"], ""),
        (["--enforce-eager"], ""),
        ([], ""),
    ],
)
def test_a_wrong_model_is_found_before_vllm_is_imported(
    argv: list[str], problem: str, tmp_path: Path
) -> None:
    words = [str(tmp_path) if word == "EMPTY" else word for word in argv]
    command = [sys.executable, "-c", WRONG_MODEL, *words]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == problem.replace("EMPTY", str(tmp_path)) + "set()\n"
