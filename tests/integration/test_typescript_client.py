"""The TypeScript example, built and run by the real Node."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.processes import ROOT, server_process

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js and npm are not installed")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built example, in a copy of the repository's part that it needs."""
    copy = tmp_path_factory.mktemp("typescript")
    ignored = shutil.ignore_patterns("node_modules", "dist", "generated")
    shutil.copytree(ROOT / "protos", copy / "protos")
    shutil.copytree(ROOT / "clients" / "typescript", copy / "clients" / "typescript", ignore=ignored)
    folder = copy / "clients" / "typescript"
    for command in (["npm", "ci", "--ignore-scripts"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(example: Path, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    command = ["node", "dist/example.js", *arguments]
    environment = os.environ | {"OCTET_API_KEY": key}
    return subprocess.run(command, cwd=example, env=environment, capture_output=True, text=True, timeout=60)


def test_streamed_text_with_a_picture_and_a_key(example: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    with server_process("echo", "s3cret") as server:
        arguments = ("--image", str(tmp_path / "a.png"), server.target, "one two")
        answered = run(example, *arguments, key="s3cret")
        refused = run(example, server.target, "hi", key="wrong")
    assert (answered.returncode, answered.stdout, answered.stderr) == (0, "one two \n", "")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "UNAUTHENTICATED: the API key is wrong" in refused.stderr


def test_tool_calls_are_made_and_their_results_used(example: Path) -> None:
    with server_process("use_tool") as server:
        result = run(example, server.target, "What is the weather in Oslo?")
    assert (result.returncode, result.stdout) == (0, "It gave It is sunny in Oslo..\n")
