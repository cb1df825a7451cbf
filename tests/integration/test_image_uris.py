"""Pictures by URI over a real channel, from a real HTTPS server; permitting its address is the tests' own."""

import asyncio
import base64
import io
import ssl
from collections.abc import AsyncIterator

import grpc
import pytest
import trustme
from PIL import Image

from octet.config import ServerConfig
from octet.engine.types import ImagePart
from octet.fetch import ImageFetcher
from octet.v1 import chat_service_pb2, completion_service_pb2, content_pb2, prompt_pb2
from tests.https_origin import Origin, serve_origin
from tests.integration.conftest import Start, ask, details_of
from tests.integration.fake_engine import FakeEngine


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def origin(authority: trustme.CA) -> AsyncIterator[Origin]:
    async with serve_origin(authority) as origin:
        yield origin


@pytest.fixture
async def fetcher(origin: Origin, authority: trustme.CA) -> ImageFetcher:
    """What `--image-host localhost:PORT` makes, but for trusting this machine."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return ImageFetcher(
        [f"localhost:{origin.port}"],
        max_bytes=10_000,
        max_request_bytes=10_000,
        seconds=60,
        permits=lambda address: address.is_loopback,
        ssl_context=trusting,
    )


def png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 3), color).save(file, "PNG")
    return file.getvalue()


def picture(*uris: str) -> chat_service_pb2.ChatRequest:
    request = ask("what is it?")
    for uri in uris:
        request.messages[0].parts.add(image=content_pb2.Image(uri=uri))
    return request


def colors(engine: FakeEngine) -> list[tuple[int, ...]]:
    """Of the pictures in the only request that a client made."""
    [asked] = engine.asked
    pictures = [part.image for part in asked.messages[0].parts if isinstance(part, ImagePart)]
    return [picture.getpixel((0, 0)) for picture in pictures]  # type: ignore[misc]


async def test_data_uris_need_no_switch(start: Start) -> None:
    running = await start()
    await running.chat.Chat(picture(f"data:image/png;base64,{base64.b64encode(png('red')).decode()}"))
    assert colors(running.engine) == [(255, 0, 0)]


async def test_pictures_are_fetched_and_keep_their_places(
    start: Start, origin: Origin, fetcher: ImageFetcher
) -> None:
    running = await start(fetcher=fetcher)
    origin.answer("/red", body=png("red"))
    origin.answer("/blue", body=png("blue"))
    red, blue = origin.uri("/red", "localhost"), origin.uri("/blue", "localhost")
    await running.chat.Chat(picture(red, blue, red))
    assert colors(running.engine) == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]
    assert sorted(origin.asked) == ["/blue", "/red"]


async def test_pictures_of_raw_prompts_are_fetched_as_well(
    start: Start, origin: Origin, fetcher: ImageFetcher
) -> None:
    running = await start(fetcher=fetcher, config=ServerConfig(port=0, max_running_requests=1))
    for color in ("red", "blue"):
        origin.answer(f"/{color}", body=png(color))
    prompts = [
        prompt_pb2.Prompt(parts=[prompt_pb2.PromptPart(image={"uri": origin.uri(f"/{color}", "localhost")})])
        for color in ("red", "blue")
    ]
    await running.completions.Complete(completion_service_pb2.CompletionRequest(prompts=prompts))
    shown = {}
    for asked in running.engine.asked:
        assert asked.prompt is not None
        [part] = asked.prompt.parts
        assert isinstance(part, ImagePart)
        shown[asked.prompt.field] = part.image.getpixel((0, 0))
    assert shown == {"prompts[0]": (255, 0, 0), "prompts[1]": (0, 0, 255)}
    assert running.server.admission.load().image_bytes == 0
    origin.answer("/red", body=b"none")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.completions.Complete(completion_service_pb2.CompletionRequest(prompts=prompts))
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "prompts[0].parts[0].image.uri"


async def test_where_nothing_is_fetched(start: Start, origin: Origin) -> None:
    running = await start()
    origin.answer("/red", body=png("red"))
    with pytest.raises(grpc.aio.AioRpcError, match="fetches no pictures"):
        await running.chat.Chat(picture(origin.uri("/red", "localhost")))
    assert origin.asked == []


async def test_an_allowed_host_on_this_machine_is_refused(start: Start, origin: Origin) -> None:
    """The server as the flag makes it: nothing of the tests' own."""
    config = ServerConfig(port=0, image_hosts=(f"localhost:{origin.port}",))
    running = await start(config=config)
    origin.answer("/red", body=png("red"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(picture(origin.uri("/red", "localhost")))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(raised.value)
    assert details.info.reason == "IMAGE_FETCH_FAILED"
    [violation] = details.bad_request.field_violations
    assert violation.field == "messages[0].parts[1].image.uri"
    assert "its host's address is not a public one" in violation.description
    assert origin.asked == []
    assert running.engine.asked == []


async def test_what_is_fetched_has_to_be_a_picture(
    start: Start, origin: Origin, fetcher: ImageFetcher
) -> None:
    running = await start(fetcher=fetcher)
    origin.answer("/page", text="<html>")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(picture(origin.uri("/page", "localhost")))
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "messages[0].parts[1].image.uri"
    assert "is not a PNG, JPEG" in violation.description


@pytest.mark.parametrize("how", ["deadline", "cancel", "CancelChat"])
async def test_who_gives_up_ends_the_fetching(
    start: Start, origin: Origin, fetcher: ImageFetcher, how: str
) -> None:
    running = await start(fetcher=fetcher)
    asked = origin.hang("/hangs")
    request = picture(origin.uri("/hangs", "localhost"))
    request.request_id = "r1"
    call = running.chat.StreamChat(request, timeout=3 if how == "deadline" else None)
    reading = asyncio.create_task(call.read())
    await asyncio.wait_for(asked.wait(), 30)
    if how == "cancel":
        call.cancel()
    elif how == "CancelChat":
        await running.chat.CancelChat(chat_service_pb2.CancelChatRequest(request_ids=["r1"]))
    await asyncio.wait_for(origin.dropped.wait(), 30)
    await asyncio.gather(reading, return_exceptions=True)
    assert running.engine.asked == []
