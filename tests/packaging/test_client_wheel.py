"""octet-client, installed into an empty environment: small, pure, and enough to talk to a server."""

import json
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from octet import __version__
from tests.integration.processes import server_process
from tests.packaging.environments import ROOT, Environment, build_wheel, metadata_of, names_in

PROJECT = ROOT / "clients" / "python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(PROJECT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the client and what it declares to require."""
    environment = Environment(tmp_path_factory.mktemp("alone"))
    environment.link_requirements(wheel)
    environment.install(wheel)
    return environment


def run(
    alone: Environment, *command: str, stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    program, *arguments = command
    unset = ("PYTHONPATH", "OCTET_API_KEY")
    return subprocess.run(
        [alone.bin / program, *arguments],
        cwd=cwd or alone.packages,
        env={name: value for name, value in os.environ.items() if name not in unset},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_it_is_pure_python_for_every_system_and_small(wheel: Path) -> None:
    assert wheel.name == f"octet_client-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 1_000_000
    assert str(metadata_of(wheel).requires_python) == ">=3.10"


def test_it_holds_the_client_the_stubs_and_their_types(wheel: Path) -> None:
    names = names_in(wheel)
    assert {"octet/__init__.py", "octet/py.typed", "octet/v1/octet.binpb", "octet/v1/__init__.py"} <= names
    assert {f"octet/v1/chat_service_pb2{end}" for end in (".py", ".pyi", "_grpc.py")} <= names
    assert {f"octet/client/{path.name}" for path in (ROOT / "service/octet/client").glob("*.py")} <= names
    assert not [name for name in names if not name.startswith("octet/")]


def test_the_server_requires_the_client_of_its_own_version() -> None:
    server = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"octet-client=={__version__}" in server["dependencies"]
    # What both require can be had in one version.
    pinned = dict(line.split("==") for line in server["dependencies"] if "==" in line)
    client = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    for line in client["dependencies"]:
        name, _, lowest = line.partition(">=")
        assert pinned.get(name, lowest.partition(",")[0]) == lowest.partition(",")[0], line


def test_it_requires_nothing_that_it_does_not_declare(alone: Environment) -> None:
    checked = alone.pip("check")
    assert checked.returncode == 0, checked.stdout
    imported = run(
        alone,
        "python",
        "-c",
        "import sys, json, octet.client; print(json.dumps([octet.__file__, *sys.modules]))",
    )
    assert imported.returncode == 0, imported.stderr
    where, *modules = json.loads(imported.stdout)
    assert Path(where).is_relative_to(alone.packages)
    heavy = {"torch", "vllm", "numpy", "PIL", "pydantic", "jsonschema", "click", "octet.engine"}
    assert not heavy & set(modules)
    # Python's own, gRPC's and protobuf's: 240 when this was written. Each costs its share of the start.
    assert len(modules) < 350


def test_commands_of_the_server_say_what_to_install(alone: Environment) -> None:
    helped = run(alone, "octet", "--help")
    installed, _, others = helped.stdout.partition("Not installed, for they come with the server")
    commands = [
        line.split()[0] for line in installed.partition("Commands:\n")[2].splitlines() if line.strip()
    ]
    missing = others.partition(":")[2].replace(",", "").split()
    assert commands == ["chat", "complete", "embed", "health"]
    assert missing == ["bench", "demo", "doctor", "eval", "inspect", "quantize", "serve"]
    for command in missing:
        refused = run(alone, "octet", command, "--help")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == (
            f"Error: `octet {command}` comes with the server, and only the client is installed: "
            "install octet-serve\n"
        )
    assert run(alone, "octet", "nonsense").returncode == 2
    assert run(alone, "octet", "--version").stdout == f"octet, version {__version__}\n"


def test_it_asks_a_server(alone: Environment, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    with server_process("echo") as server:
        target = ("--target", server.target)
        chatted = run(alone, "octet", "chat", *target, "--image", "a.png", "one two", cwd=tmp_path)
        talked = run(alone, "octet", "chat", *target, stdin="one\ntwo\n")
        completed = run(alone, "octet", "complete", *target, "--json", "one two")
        asked = run(alone, "octet", "health", *target)
    assert (chatted.returncode, chatted.stdout) == (0, "one two \n"), chatted.stderr
    assert talked.stdout.split() == ["one", "two"], talked.stderr
    assert json.loads(completed.stdout)["results"][0]["completions"][0]["text"], completed.stderr
    assert (asked.returncode, asked.stdout) == (0, "SERVING\n"), asked.stderr


def test_functions_are_tools(alone: Environment) -> None:
    """The part of the client that needs pydantic."""
    program = """
        import sys
        from octet.client import Client

        def get_weather(city: str) -> str:
            "Get the weather in a city."
            return f"rain in {city}"

        with Client(sys.argv[1]) as client:
            print(client.chat_with_tools("What is the weather?", [get_weather]).answer.text)
    """
    with server_process("use_tool") as server:
        ran = run(alone, "python", "-c", textwrap.dedent(program), server.target)
    assert (ran.returncode, ran.stdout) == (0, "It gave rain in Oslo.\n"), ran.stderr


def test_its_sources_are_python_3_10(wheel: Path, tmp_path: Path) -> None:
    """As mypy knows the syntax and the standard library of that version."""
    sources = [ROOT / "service" / name for name in names_in(wheel) if name.endswith(".py")]
    sources = [path for path in sources if path.parent.name != "v1"]
    found = _check_types_of_3_10(tmp_path, *sources)
    assert found.returncode == 0, found.stdout + found.stderr


def test_what_is_newer_than_3_10_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "newer.py").write_text("from typing import Self\nimport tomllib\n")
    found = _check_types_of_3_10(tmp_path, tmp_path / "newer.py").stdout
    assert "newer.py:1: error: " in found
    assert "newer.py:2: error: " in found


def _check_types_of_3_10(cache: Path, *sources: Path) -> subprocess.CompletedProcess[str]:
    options = ["--python-version", "3.10", "--follow-imports", "silent", "--cache-dir", cache / "cache"]
    # Only what the version decides is of interest here; `make check` looks at the rest.
    lenient = ["--config-file", os.devnull, "--disable-error-code", "import-untyped"]
    command = [sys.executable, "-m", "mypy", *options, *lenient, *sources]
    environment = os.environ | {"MYPYPATH": str(ROOT / "service")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
