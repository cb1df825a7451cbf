"""The real SMG gateway over two replicas with the real vLLM, one of them in this process."""

import asyncio
import base64
import io
import json
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import trustme
from PIL import Image, ImageDraw

from octet.client import AsyncClient
from octet.config import ServerConfig
from octet.engine.vllm.serving.engine import VllmEngine
from octet.engine.vllm.serving.smg import create_servicer
from octet.server.server import Server
from tests.e2e.conftest import MODEL_NAME
from tests.e2e.envoy import envoy, write_certificate
from tests.e2e.gateway import gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def replica(engine: VllmEngine) -> AsyncIterator[Server]:
    """The replica in this process."""
    server = Server(
        ServerConfig(port=0, smg=True),
        create_servicer=partial(create_servicer, max_image_bytes=1 << 20, image_threads=2),
    )
    await server.start()
    await server.attach(engine)
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def session(
    replica: Server, target: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[aiohttp.ClientSession]:
    """HTTP to a gateway over both replicas."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    flags = ("--policy", "cache_aware", "--health-check-interval-secs", "1", "--tool-call-parser", "json")
    running = gateway([f"127.0.0.1:{replica.port}", target], log, *flags)
    # Its start waits for answers of the replica that runs on this very event loop.
    url = await asyncio.to_thread(running.__enter__)
    try:
        async with aiohttp.ClientSession(url) as session:
            yield session
    finally:
        running.__exit__(None, None, None)


def asked(content: Any, **fields: Any) -> dict[str, Any]:
    return {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 64,
        **fields,
    }


async def chat(session: aiohttp.ClientSession, content: Any, **fields: Any) -> dict[str, Any]:
    """The gateway's whole answer."""
    async with session.post("/v1/chat/completions", json=asked(content, **fields)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()  # type: ignore[no-any-return]


def text_of(answer: dict[str, Any]) -> str:
    [choice] = answer["choices"]
    return choice["message"]["content"]  # type: ignore[no-any-return]


async def pieces_of(answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The pieces of text that a stream of server-sent events brings."""
    async for line in answer.content:
        data = line.decode().removeprefix("data: ").strip()
        if data and data != "[DONE]":
            for choice in json.loads(data)["choices"]:
                if piece := choice["delta"].get("content"):
                    yield piece


async def test_the_gateways_answer_is_octets_own(session: aiohttp.ClientSession, target: str) -> None:
    async with AsyncClient(target) as client:
        expected = await client.chat("Count to five.", temperature=0)
    answer = await chat(session, "Count to five.")
    assert text_of(answer) == expected.text
    assert answer["usage"]["prompt_tokens"] == expected.usage.prompt_tokens


async def test_a_stream(session: aiohttp.ClientSession) -> None:
    whole = text_of(await chat(session, "Count to five."))
    async with session.post("/v1/chat/completions", json=asked("Count to five.", stream=True)) as answer:
        pieces = [piece async for piece in pieces_of(answer)]
    assert "".join(pieces) == whole
    assert len(pieces) > 2


async def test_a_picture(session: aiohttp.ClientSession) -> None:
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((50, 50, 150, 150), fill=(220, 20, 20))
    file = io.BytesIO()
    image.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [
        {"type": "text", "text": "What is in this picture?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    assert text_of(await chat(session, content)) == "a red circle"


async def test_a_text_takes_no_pictures_place(session: aiohttp.ClientSession) -> None:
    """The gateway takes the token's name in a text for the token."""
    file = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [
        {"type": "text", "text": "Is this <start_of_image> a picture?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    async with session.post("/v1/chat/completions", json=asked(content)) as answer:
        assert 400 <= answer.status < 500, await answer.text()


async def test_a_tool_is_called(session: aiohttp.ClientSession) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "get_weather", "description": "Get the weather in a city.", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    [choice] = (await chat(session, "What is the weather in Oslo?", tools=tools))["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


async def test_a_picture_from_elsewhere_is_refused(session: aiohttp.ClientSession) -> None:
    content = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/picture.png"}}]
    async with session.post("/v1/chat/completions", json=asked(content)) as answer:
        assert 400 <= answer.status < 500, await answer.text()


async def test_requests_go_where_their_prefix_is_cached(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "octet")
    # Longer than a block of the cache, which has 128 tokens on CPUs.
    prefixes = [f"Conversation {name}. " + "Tell me a story. " * 60 for name in "ABCDEFGH"]
    for prefix in prefixes:
        await chat(session, prefix, max_tokens=1)
    here = sum("VllmEngine/Generate OK" in message for message in caplog.messages)
    assert 0 < here < len(prefixes), "both replicas have work"
    again = [await chat(session, f"{prefix} Go on.", max_tokens=1) for prefix in prefixes]
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in again]
    assert min(cached) > 0, cached


async def test_who_hangs_up_frees_the_engine(replica: Server, engine: VllmEngine, tmp_path: Path) -> None:
    running = gateway([f"127.0.0.1:{replica.port}"], tmp_path / "log")
    url = await asyncio.to_thread(running.__enter__)
    try:
        async with (
            aiohttp.ClientSession(url) as session,
            session.post(
                "/v1/chat/completions",
                json=asked("Tell me a story.", stream=True, max_tokens=900, ignore_eos=True),
            ) as answer,
        ):
            await anext(pieces_of(answer))
            assert await engine.num_unfinished() == 1
            answer.close()
            async with asyncio.timeout(60):
                # The engine's own process tells; there is no event to wait for.
                while await engine.num_unfinished():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    finally:
        running.__exit__(None, None, None)


async def test_envoy_brings_a_gateway_past_keys_and_mutual_tls(engine: VllmEngine, tmp_path: Path) -> None:
    ca = trustme.CA()
    write_certificate(ca, tmp_path / "server", "octet")
    write_certificate(ca, tmp_path / "client", "gateway.example.com")
    server = Server(
        ServerConfig(
            port=0,
            smg=True,
            api_key="secret",
            tls_certificate=str(tmp_path / "server" / "tls.crt"),
            tls_key=str(tmp_path / "server" / "tls.key"),
            tls_client_ca=str(tmp_path / "server" / "ca.crt"),
        ),
        create_servicer=partial(create_servicer, max_image_bytes=1 << 20, image_threads=2),
    )
    await server.start()
    await server.attach(engine)
    stack = ExitStack()
    try:
        sidecar = await asyncio.to_thread(
            stack.enter_context,
            envoy(
                "mtls.yaml",
                [server.port],
                tmp_path,
                tls=tmp_path / "client",
                environment={"OCTET_API_KEY": "secret"},
            ),
        )
        url = await asyncio.to_thread(stack.enter_context, gateway([sidecar], tmp_path / "log"))
        async with aiohttp.ClientSession(url) as session:
            assert text_of(await chat(session, "Count to five."))
    finally:
        stack.close()
        await server.stop()


async def test_the_other_replica_serves_when_one_has_stopped(
    session: aiohttp.ClientSession, replica: Server
) -> None:
    await replica.drain()
    await replica.stop()
    for i in range(6):
        assert text_of(await chat(session, f"Count to five. {i}"))
