"""The clients' raw prompts, completions and vectors, over a real channel."""

from pathlib import Path

import pytest
from PIL import Image

from octet.client import AsyncClient, Client, OctetRpcError, prompt
from octet.engine.types import ImagePart, Service, TextPart, TokensPart
from octet.v1 import chat_service_pb2
from tests.integration.conftest import Start
from tests.integration.fake_engine import Endless


async def test_prompts_in_every_form(start: Start, tmp_path: Path) -> None:
    running = await start()
    picture = Image.new("RGB", (8, 8), "red")
    picture.save(tmp_path / "a.png")
    async with AsyncClient(running.target) as client:
        assert (await client.complete("a b")).text == "a b "
        assert (await client.complete([97, 98])).text == "ab "
        mixed = prompt("a", [98], picture, tmp_path / "a.png", (tmp_path / "a.png").read_bytes())
        several = await client.complete(["x", [97], mixed], n=1)
        assert several.texts == ["x ", "a ", "ab "]
        assert several.finish_reason == "STOP"
        assert several.usage.completion_tokens == 3
    asked = running.engine.asked[-1].prompt
    assert asked is not None
    assert {tuple(map(type, one.prompt.parts)) for one in running.engine.asked if one.prompt} == {
        (TextPart,),
        (TokensPart,),
        (TextPart, TokensPart, ImagePart, ImagePart, ImagePart),
    }


async def test_options(start: Start) -> None:
    running = await start()
    async with AsyncClient(running.target) as client:
        answer = await client.complete(
            "a",
            max_tokens=5,
            stop=["x"],
            adapter="pirate",
            cache_salt="s",
            request_id="r1",
            add_special_tokens=False,
            parse_special_tokens=False,
            output_format=chat_service_pb2.OutputFormat(regex="a*"),
        )
        assert answer.request_id == "r1"
        with pytest.raises(TypeError, match="unknown options: tools"):
            await client.complete("a", tools=[])  # type: ignore[call-arg]
    [asked] = running.engine.asked
    assert (asked.sampling.max_tokens, asked.sampling.stop, asked.adapter) == (5, ("x",), "pirate")
    assert asked.output_format is not None
    assert asked.prompt is not None
    assert (asked.prompt.add_special_tokens, asked.prompt.parse_special_tokens) == (False, False)


async def test_streams(start: Start) -> None:
    running = await start()
    async with AsyncClient(running.target) as client:
        async with client.stream_complete(["a b", "c"]) as stream:
            assert [piece async for piece in stream] == ["a ", "b "]
        answer = await stream.answer()
        assert answer.texts == ["a b ", "c "]


async def test_cancelled_streams_keep_what_came(start: Start) -> None:
    running = await start(Endless())
    async with AsyncClient(running.target) as client:
        stream = client.stream_complete(["a", "b"])
        assert await anext(aiter(stream)) == "first "
        assert await client.cancel(stream.request_id) == [stream.request_id]
        answer = await stream.answer()
        assert answer.finish_reason == "CANCELLED"


def test_blocking_client(tmp_path: Path) -> None:
    from tests.integration.processes import server_process

    with server_process("echo") as server, Client(server.target) as client:
        assert client.complete("a b").text == "a b "
        stream = client.stream_complete(["a b", "c"])
        assert list(stream) == ["a ", "b "]
        assert stream.answer().texts == ["a b ", "c "]
        with pytest.raises(OctetRpcError, match="makes no vectors of them"):
            client.embed("a")


async def test_vectors(start: Start) -> None:
    running = await start(services=(Service.EMBEDDING,))
    async with AsyncClient(running.target) as client:
        given = await client.embed(
            ["ab", [97]], normalize=False, dimensions=2, truncate=True, request_id="r1"
        )
        assert given.vectors == [[2.0, 1.0], [1.0, 1.0]]
        assert (given.request_id, given.usage.prompt_tokens) == ("r1", 3)
        assert (await client.embed("abc")).vectors == [[3.0, 1.0, 2.0, 3.0]]
        with pytest.raises(TypeError, match="unknown options: n"):
            await client.embed("a", n=1)  # type: ignore[call-arg]
    assert running.engine.embedded[1].normalize is False
