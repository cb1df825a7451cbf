"""The example programs of clients/, each built and run where its compiler and libraries are installed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.certificates import Certificates
from tests.integration.processes import ROOT, Process, server_process

KEY = "s3cret"
MISSING = 3
"""The exit status of a build that lacks what it may not install."""


@dataclass(frozen=True)
class Program:
    """An example that was built.

    Attributes:
        command: how it is run.
        folder: where.
        seconds: how it takes a number of seconds.
    """

    command: tuple[str, ...]
    folder: Path
    seconds: str

    def __call__(self, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=os.environ | {"OCTET_API_KEY": key},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=280)
    if done.returncode == MISSING:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr


def build(language: str, folder: Path) -> Program:
    """Builds with what is installed."""
    run(ROOT / "tools" / "build_client.sh", language, folder, sys.executable)
    return Program((str(folder / "octet-example"),), folder, "{}s" if language == "go" else "{}")


def build_typescript(language: str, folder: Path) -> Program:
    """Builds with packages from the registry, in a copy of the part of the repository that it needs."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed")
    ignored = shutil.ignore_patterns("node_modules", "dist", "generated")
    shutil.copytree(ROOT / "protos", folder / "protos")
    shutil.copytree(ROOT / "clients" / "typescript", folder / "clients" / "typescript", ignore=ignored)
    copy = folder / "clients" / "typescript"
    run("npm", "ci", "--ignore-scripts", cwd=copy)
    run("npm", "run", "build", cwd=copy)
    return Program(("node", "dist/example.js"), copy, "{}")


BUILDERS: Mapping[str, Callable[[str, Path], Program]] = {
    "cpp": build,
    "go": build,
    "java": build,
    "typescript": build_typescript,
}


@pytest.fixture(scope="module", params=BUILDERS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The example in each language."""
    language: str = request.param
    return BUILDERS[language](language, tmp_path_factory.mktemp(language))


@pytest.fixture(scope="module")
def using_tools() -> Iterator[Process]:
    with server_process("use_tool") as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a server that wants TLS and a key, and the file of the authority that vouches for it."""
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    certificate, key = certificates.issue("server", "localhost")
    settings = (f'tls_certificate="{certificate}"', f'tls_key="{key}"')
    with server_process("echo", KEY, *settings) as server:
        yield f"localhost:{server.target.rpartition(':')[2]}", certificates.ca


def test_streamed_text_with_a_picture_over_tls_with_a_key(
    program: Program, guarded: tuple[str, str], tmp_path: Path
) -> None:
    target, ca = guarded
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    arguments = ("--ca", ca, "--image", str(tmp_path / "a.png"), target, "one two")
    answered, refused = program(*arguments, key=KEY), program(*arguments, key="wrong")
    assert (answered.returncode, answered.stdout, answered.stderr) == (0, "one two \n", "")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the API key is wrong" in refused.stderr


def test_the_wrong_field_is_told(program: Program, guarded: tuple[str, str], tmp_path: Path) -> None:
    target, ca = guarded
    (tmp_path / "a.png").write_text("no picture")
    refused = program("--ca", ca, "--image", str(tmp_path / "a.png"), target, "one two", key=KEY)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "\n  messages[0].parts[0].image.data: " in refused.stderr


def test_tool_calls_are_made_and_their_results_used(program: Program, using_tools: Process) -> None:
    result = program(using_tools.target, "What is the weather in Oslo?")
    assert (result.returncode, result.stdout, result.stderr) == (0, "It gave It is sunny in Oslo..\n", "")


def test_a_deadline_ends_an_answer(program: Program) -> None:
    with server_process("endless") as server:
        # On a busy machine the first ones are over before there is a connection.
        for seconds in (1, 4, 16):
            late = program("--timeout", program.seconds.format(seconds), server.target, "Go on.")
            assert late.returncode == 1
            if late.stdout:
                break
    assert late.stdout == "first "
    assert "eadline" in late.stderr.replace("DEADLINE", "deadline")


def test_wrong_usage_is_one_line(program: Program) -> None:
    wrong = program("127.0.0.1:1")
    assert wrong.returncode != 0
    assert wrong.stderr.count("\n") == 1
    assert "HOST:PORT TEXT" in wrong.stderr


def test_what_a_build_lacks_is_one_line(tmp_path: Path) -> None:
    for name in ("sh", "dirname", "mkdir"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    script = ROOT / "tools" / "build_client.sh"
    for language, status, said in (
        (
            "cpp",
            MISSING,
            "octet: the example in cpp is not built: protoc is missing (Debian: protobuf-compiler)",
        ),
        ("cobol", 2, "octet: there is no example in 'cobol': go, java or cpp"),
    ):
        built = subprocess.run(
            [script, language, tmp_path / "out", sys.executable],
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (built.returncode, built.stderr) == (status, f"{said}\n")
