"""`octet complete` and `octet embed` as processes; what other commands say of such models."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from octet.engine.types import ImagePart, Service, TextPart
from tests.integration.conftest import Start
from tests.integration.processes import ROOT

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "service"}


async def octet(*arguments: str, typed: str = "") -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "octet", *arguments),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(typed.encode()), 60)
    return process.returncode, out.decode(), err.decode()


async def test_what_follows_alone_on_standard_output(start: Start) -> None:
    running = await start()
    target = ("--target", running.target)
    assert await octet("complete", *target, "one two") == (0, "one two \n", "")
    assert await octet("complete", *target, typed="from a\nfile") == (0, "from a file \n", "")
    code, out, _ = await octet("complete", *target, "--json", "one")
    assert code == 0
    assert json.loads(out)["results"][0]["completions"][0]["text"] == "one "


async def test_options_of_a_completion(start: Start, tmp_path: Path) -> None:
    running = await start()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    options = ("--plain", "--image", str(tmp_path / "a.png"), "--max-tokens", "7", "--stop", "x")
    await octet("complete", "--target", running.target, *options, "--temperature", "0", "a")
    [asked] = running.engine.asked
    assert asked.prompt is not None
    picture, text = asked.prompt.parts
    assert isinstance(picture, ImagePart)
    assert text == TextPart("a")
    assert not asked.prompt.parse_special_tokens
    assert (asked.sampling.max_tokens, asked.sampling.temperature, asked.sampling.stop) == (7, 0.0, ("x",))


async def test_a_vector_a_line(start: Start) -> None:
    running = await start(services=(Service.EMBEDDING,))
    target = ("--target", running.target)
    code, out, err = await octet("embed", *target, "ab", "abc")
    assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == [[2.0, 1.0, 2.0, 3.0], [3.0, 1.0, 2.0, 3.0]]
    code, out, _ = await octet(
        "embed", *target, "--dimensions", "2", "--no-normalize", "--truncate", typed="a\n\nbc\n"
    )
    assert (code, len(out.splitlines())) == (0, 2)
    asked = running.engine.embedded[-1]
    assert (asked.dimensions, asked.normalize, asked.truncate) == (2, False, True)
    code, _, err = await octet("embed", *target)
    assert code == 2
    assert "give a text" in err


@pytest.mark.parametrize(
    ("services", "command", "sentence"),
    [
        ((Service.COMPLETION,), "chat", "fake has no chat template"),
        ((Service.EMBEDDING,), "chat", "fake makes vectors of texts and writes none"),
        ((Service.EMBEDDING,), "complete", "fake makes vectors of texts and writes none"),
        ((Service.CHAT, Service.COMPLETION), "embed", "fake writes texts and makes no vectors"),
    ],
)
async def test_the_wrong_command(
    start: Start, services: tuple[Service, ...], command: str, sentence: str
) -> None:
    running = await start(services=services)
    code, out, err = await octet(command, "--target", running.target, "a")
    assert (code, out) == (1, "")
    assert f"octet: error: UNIMPLEMENTED: {sentence}" in err
    assert "`octet complete`" in err.splitlines()[-1]


async def test_health_says_what_the_model_is_for(start: Start) -> None:
    running = await start(services=(Service.EMBEDDING,))
    code, out, err = await octet("health", "--target", running.target, "--service", "octet.v1.ChatService")
    assert (code, out) == (1, "NOT_SERVING\n")
    assert err == (
        "octet: octet.v1.ChatService does not serve; octet.v1.EmbeddingService, octet.v1.ModelService do\n"
    )
    assert await octet("health", "--target", running.target) == (0, "SERVING\n", "")
