"""The command group: what it lists, and what it does not import."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from octet import __version__
from octet.cli import octet


def test_lists_its_commands() -> None:
    result = CliRunner().invoke(octet, ["--help"])
    assert result.exit_code == 0
    for command in ("bench", "chat", "demo", "doctor", "serve"):
        assert f"\n  {command} " in result.stdout


def test_version() -> None:
    assert __version__ in CliRunner().invoke(octet, ["--version"]).stdout


def test_unknown_command() -> None:
    result = CliRunner().invoke(octet, ["fly"])
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.stderr


@pytest.mark.parametrize("command", ["bench", "chat", "serve", "demo"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from octet.cli import octet; octet.main(sys.argv[1:], standalone_mode=False);"
        "print(*(name for name in ('torch', 'vllm', 'grpc', 'PIL') if name in sys.modules), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, check=True
    )
    assert f" {command} [OPTIONS]" in result.stdout
    assert result.stderr == "\n"
