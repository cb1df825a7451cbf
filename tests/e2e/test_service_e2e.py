"""The whole service with the real vLLM: `octet serve` and `octet chat` as users run them; who gives up."""

import asyncio
import functools
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image, ImageDraw

from octet.client import AsyncClient, Client, OctetRpcError, tool_result, user
from octet.engine.vllm.serving.engine import VllmEngine
from tests.e2e.conftest import becomes_idle
from tests.e2e.recipes import Recipe, recipes_of

OCTET = [sys.executable, "-m", "octet"]

P = ParamSpec("P")
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

STREAM_ON_AND_ON = """
import sys
from octet.client import Client
for text in Client(sys.argv[1]).stream("Tell me a story.", ignore_eos=True, max_tokens=int(sys.argv[2])):
    print(text, flush=True)
"""


def beside_the_server(test: Callable[P, None]) -> Callable[P, Awaitable[None]]:
    """Lets a test ask a server that runs in this process."""

    @functools.wraps(test)
    async def in_a_thread(*args: P.args, **kwargs: P.kwargs) -> None:
        await asyncio.to_thread(test, *args, **kwargs)

    return pytest.mark.asyncio(loop_scope="session")(in_a_thread)


def chat(target: str, *arguments: str) -> str:
    """What `octet chat` prints."""
    command = [*OCTET, "chat", "--target", target, "--temperature", "0", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_health_and_models(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service="octet.v1.ChatService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with Client(target) as client:
        [model] = client.list_models()
    assert model.quantization.scheme == "FP8_DYNAMIC"
    assert model.image_limits.max_images >= 1
    assert any("octet" in kernel for kernel in model.active_kernels)


@beside_the_server
def test_as_many_pictures_as_the_model_is_said_to_take(either_target: str) -> None:
    pictures = [Image.new("RGB", (8, 8))]
    with Client(either_target) as client:
        [model] = client.list_models()
        limits = model.image_limits
        counted = client.count_tokens(user(images=pictures * limits.max_images))
        assert counted.prompt_tokens < model.context_window
        assert counted.prompt_tokens <= limits.max_images * limits.tokens_per_image + limits.tokens_per_image
        with pytest.raises(OctetRpcError, match=f"more than the {limits.max_images} of one request"):
            client.count_tokens(user(images=pictures * (limits.max_images + 1)))


@beside_the_server
def test_text_streams_in_more_than_one_chunk(either_target: str) -> None:
    with Client(either_target) as client:
        stream = client.stream("What is the capital of France?", temperature=0.0)
        pieces = list(stream)
        answer = stream.answer()
        whole = client.chat("What is the capital of France?", temperature=0.0)
    assert len(pieces) > 1
    assert "".join(pieces) == answer.text == whole.text
    assert "Paris" in answer.text
    assert answer.finish_reason == "STOP"
    assert answer.usage.completion_tokens >= len(pieces)


@beside_the_server
def test_red_circle(either_target: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).ellipse((100, 50, 200, 150), fill="red")
    image.save(tmp_path / "circle.png")
    answer = chat(either_target, "--image", str(tmp_path / "circle.png"), "What is in the picture?")
    assert "red circle" in answer


@beside_the_server
def test_three_green_squares(either_target: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    for left, top in ((20, 30), (150, 40), (90, 160)):
        draw.rectangle((left, top, left + 60, top + 60), fill="green")
    image.save(tmp_path / "squares.jpg")
    answer = chat(either_target, "--image", str(tmp_path / "squares.jpg"), "What is in the picture?")
    assert "three green squares" in answer.lower()


@beside_the_server
def test_the_readmes_program(either_target: str, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((60, 60, 140, 140), fill="blue")
    image.save(tmp_path / "picture.png")
    result = subprocess.run(
        [sys.executable, "-c", program.replace("127.0.0.1:50051", either_target)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "blue circle" in result.stdout


RECIPES = recipes_of("recipes.md")
# How this model calls tools was trained with another template.
TALKS = [recipe for recipe in RECIPES if "tools" not in recipe.program]


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.title for recipe in RECIPES])
def test_recipe(recipe: Recipe, target: str) -> None:
    recipe.follow(OCTET=target)


@pytest.mark.parametrize("recipe", TALKS, ids=[recipe.title for recipe in TALKS])
@beside_the_server
def test_recipe_with_a_strict_template(recipe: Recipe, strict_target: str) -> None:
    recipe.follow(OCTET=strict_target)


def test_tool_call_from_the_command_line(target: str, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
    answer = chat(target, "--tools", str(tmp_path / "tools.json"), "What is the weather in Oslo?")
    [call] = [json.loads(line) for line in answer.splitlines() if line]
    assert (call["name"], call["arguments"]) == ("get_weather", {"city": "Oslo"})


def test_tool_result_is_used(target: str) -> None:
    question = user("What is the weather in Oslo?")
    with Client(target) as client:
        asked = client.chat(question, tools=[WEATHER], temperature=0.0)
        assert asked.finish_reason == "TOOL_CALLS"
        [call] = asked.tool_calls
        result = tool_result(call.id, {"condition": "stormy", "temperature": 17})
        answer = client.chat([question, asked, result], tools=[WEATHER], temperature=0.0)
    assert answer.finish_reason == "STOP"
    assert "stormy" in answer.text
    assert "17" in answer.text


@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_tool_choice_constrains(target: str, choice: str) -> None:
    """A greeting asks for no call; only the constraint makes one, and holds its argument to the schema."""
    city = {"enum": ["Oslo", "Rome"]}
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    tools = [{"name": "get_weather", "parameters": parameters | {"additionalProperties": False}}]
    with Client(target) as client:
        free = client.chat("Hello!", tools=tools, temperature=0.0)
        held = client.chat("Hello!", tools=tools, tool_choice=choice, temperature=0.0, max_tokens=200)
    assert free.tool_calls == []
    assert held.tool_calls
    for call in held.tool_calls:
        assert call.name == "get_weather"
        assert call.arguments["city"] in ("Oslo", "Rome")


# From here on the server runs in this process, so that the engine can be asked whether it is idle.


@pytest.mark.asyncio(loop_scope="session")
async def test_killed_client_leaves_no_request(engine: VllmEngine, in_process: str) -> None:
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STREAM_ON_AND_ON, in_process, str(engine.model.context_window // 2)),
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert await client.stdout.readline()
    assert await engine.num_unfinished() == 1
    client.kill()
    await client.wait()
    await becomes_idle(engine)


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("how", ["cancel", "CancelChat", "deadline"])
async def test_who_gives_up_frees_the_engine(engine: VllmEngine, in_process: str, how: str) -> None:
    tokens = engine.model.context_window - 100
    timeout = 3.0 if how == "deadline" else 60.0
    async with AsyncClient(in_process, timeout=timeout) as client:
        stream = client.stream("Tell me a story.", ignore_eos=True, max_tokens=tokens)
        assert await anext(aiter(stream))
        assert await engine.num_unfinished() == 1
        if how == "cancel":
            stream.cancel()
        elif how == "CancelChat":
            assert await client.cancel(stream.request_id) == [stream.request_id]
            answer = await stream.answer()
            assert answer.finish_reason == "CANCELLED"
            assert 0 < answer.usage.completion_tokens < tokens
        else:
            with pytest.raises(OctetRpcError, match="DEADLINE_EXCEEDED"):
                await stream.answer()
        await becomes_idle(engine)
