"""Both clients against a real server."""

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from PIL import Image

from octet.client import (
    Answer,
    AsyncClient,
    Client,
    OctetRpcError,
    Tls,
    ToolRoundsExceededError,
    assistant,
    tool_result,
    user,
)
from octet.config import ServerConfig
from octet.engine.types import (
    Deltas,
    Event,
    FinishReason,
    GenerationRequest,
    ImagePart,
    Role,
    ToolCallDelta,
    ToolCallPart,
    ToolChoiceMode,
    ToolResultPart,
)
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc, tool_pb2
from tests.integration.conftest import Running, running_server
from tests.integration.fake_engine import (
    Endless,
    Script,
    accepted,
    call_tool,
    echo,
    finished,
    usage,
    use_tool,
)

WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Background:
    """A server on an event loop in a thread, for the client that blocks."""

    def __init__(self, script: Script, config: ServerConfig) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(script, config),))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self, script: Script, config: ServerConfig) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with running_server(script, config=config) as self.running:
            self._ready.set()
            await self._end.wait()

    def wait_idle(self) -> None:
        idle = asyncio.run_coroutine_threadsafe(self.running.engine.idle.wait(), self._loop)
        assert idle.result(5)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


Serve = Callable[..., Background]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(script: Script = echo, **settings: object) -> Background:
        servers.append(Background(script, ServerConfig(port=0, **settings)))  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def picture(form: str, folder: Path) -> object:
    image = Image.new("RGB", (6, 4), "red")
    if form == "PIL":
        return image
    file = io.BytesIO()
    image.save(file, "PNG")
    if form == "bytes":
        return file.getvalue()
    (folder / "red.png").write_bytes(file.getvalue())
    return folder / "red.png" if form == "path" else str(folder / "red.png")


@pytest.mark.parametrize("form", ["path", "str", "bytes", "PIL"])
def test_streamed_chat_about_a_picture(serve: Serve, form: str, tmp_path: Path) -> None:
    server = serve()
    with Client(server.running.target) as client:
        stream = client.stream("What is it?", images=[picture(form, tmp_path)])
        assert list(stream) == ["What ", "is ", "it? "]
        answer = stream.answer()
    assert (answer.text, answer.finish_reason, answer.usage.completion_tokens) == ("What is it? ", "STOP", 3)
    assert answer.request_id == stream.request_id
    [asked] = server.running.engine.asked
    image = asked.messages[0].parts[0]
    assert isinstance(image, ImagePart)
    assert image.image.getpixel((0, 0)) == (255, 0, 0)


def test_options_reach_the_engine(serve: Serve) -> None:
    server = serve()
    with Client(server.running.target) as client:
        client.chat("hi", system="Be brief.", max_tokens=5, temperature=0.5, stop=["x"], request_id="r1", n=2)
    [asked] = server.running.engine.asked
    assert asked.request_id == "r1"
    assert asked.messages[0].role is Role.SYSTEM
    assert (asked.sampling.max_tokens, asked.sampling.temperature) == (5, 0.5)
    assert (asked.sampling.stop, asked.sampling.n, asked.sampling.top_p) == (("x",), 2, None)


def test_unknown_option_is_refused(serve: Serve) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match="unknown options: temprature"):
        client.chat("hi", temprature=0.0)  # type: ignore[call-arg]


def test_tool_round_trip(serve: Serve) -> None:
    server = serve(call_tool)
    with Client(server.running.target) as client:
        question = user("Weather in Oslo?")
        answer = client.chat(question, tools=[WEATHER], tool_choice="get_weather")
        assert answer.finish_reason == "TOOL_CALLS"
        [call] = answer.tool_calls
        assert (call.name, call.arguments) == ("get_weather", {"city": "Oslo"})
        result = tool_result(call.id, {"sky": "clear"})
        client.chat([question, answer, result], tools=[{"type": "function", "function": WEATHER}])
    first, second = server.running.engine.asked
    assert first.tool_choice.name == "get_weather"
    assert first.tools == second.tools
    assert isinstance(second.messages[1].parts[0], ToolCallPart)
    assert second.messages[2].parts == (ToolResultPart("call_1", "get_weather", '{"sky": "clear"}'),)


def test_history(serve: Serve) -> None:
    server = serve()
    with Client(server.running.target) as client:
        client.chat([user("a"), assistant("b"), user("c")])
    [asked] = server.running.engine.asked
    assert [message.role for message in asked.messages] == [Role.USER, Role.ASSISTANT, Role.USER]


def test_cancel_a_stream(serve: Serve) -> None:
    server = serve(Endless())
    with Client(server.running.target) as client:
        stream = client.stream("hi")
        assert next(iter(stream)) == "first "
        stream.cancel()
        assert list(stream) == []
        answer = stream.answer()
        assert (answer.text, answer.finish_reason) == ("first ", "UNSPECIFIED")
        server.wait_idle()


def test_leaving_the_stream_cancels_it(serve: Serve) -> None:
    server = serve(Endless())
    with Client(server.running.target) as client:
        with client.stream("hi") as stream:
            next(iter(stream))
        server.wait_idle()


def test_cancel_by_id(serve: Serve) -> None:
    server = serve(Endless())
    with Client(server.running.target) as client, Client(server.running.target) as other:
        stream = client.stream("hi")
        next(iter(stream))
        assert other.cancel("unknown", stream.request_id) == [stream.request_id]
        assert stream.answer().finish_reason == "CANCELLED"


def test_deadline(serve: Serve) -> None:
    server = serve(Endless())
    with Client(server.running.target, timeout=0.3) as client:
        for ask in (client.chat, lambda text: client.stream(text).answer()):
            with pytest.raises(OctetRpcError) as raised:
                ask("hi")
            assert raised.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_idle()


def test_errors_tell_the_field(serve: Serve) -> None:
    server = serve()
    with Client(server.running.target) as client:
        for ask in (client.chat, lambda *args, **options: client.stream(*args, **options).answer()):
            with pytest.raises(OctetRpcError) as raised:
                ask("hi", images=[b"no picture"])
            assert raised.value.code == grpc.StatusCode.INVALID_ARGUMENT
            [violation] = raised.value.field_violations
            assert violation.field == "messages[0].parts[0].image.data"
            assert violation.description in raised.value.message


def test_key(serve: Serve) -> None:
    server = serve(api_key="s3cret")
    with Client(server.running.target) as client, pytest.raises(OctetRpcError) as raised:
        client.list_models()
    assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")
    with Client(server.running.target, api_key="s3cret") as client:
        assert [model.name for model in client.list_models()] == ["fake", "fake-alias"]
        assert client.get_model("fake-alias").context_window == 4096
        assert client.chat("hi").text == "hi "


def test_no_server() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(OctetRpcError) as raised:
        client.chat("hi")
    assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.UNAVAILABLE, "")


async def test_async_client() -> None:
    async with running_server() as running, AsyncClient(running.target) as client:
        stream = client.stream("one two", temperature=0.5)
        assert [text async for text in stream] == ["one ", "two "]
        assert (await stream.answer()).finish_reason == "STOP"
        answer = await client.chat("three")
        assert isinstance(answer, Answer)
        assert answer.text == "three "
        assert [model.name for model in await client.list_models()] == ["fake", "fake-alias"]
        assert (await client.get_model("fake")).name == "fake"
        with pytest.raises(OctetRpcError) as raised:
            await client.get_model("other")
        assert raised.value.code == grpc.StatusCode.NOT_FOUND
        with pytest.raises(OctetRpcError) as raised:
            await client.stream("hi", model="other").answer()
        assert raised.value.reason == "MODEL_NOT_FOUND"


async def test_async_cancel() -> None:
    script = Endless()
    async with running_server(script) as running, AsyncClient(running.target) as client:
        await _cancel_streams(script, running, client)


async def _cancel_streams(script: Endless, running: Running, client: AsyncClient) -> None:
    async with client.stream("hi") as stream:
        assert await anext(aiter(stream)) == "first "
        stream.cancel()
        assert [text async for text in stream] == []
        assert (await stream.answer()).text == "first "
    await asyncio.wait_for(running.engine.idle.wait(), 5)
    other = client.stream("hi")
    assert await anext(aiter(other)) == "first "
    assert await client.cancel(other.request_id) == [other.request_id]
    assert (await other.answer()).finish_reason == "CANCELLED"
    script.started.clear()
    task = asyncio.create_task(client.stream("hi").answer())
    await asyncio.wait_for(script.started.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_named_tool_choice_is_a_tool_choice() -> None:
    from octet.client.requests import chat_request

    request = chat_request("hi", {"tools": [WEATHER], "tool_choice": "get_weather"})
    assert request.tool_choice == tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_NAMED, name="get_weather")


def get_weather(city: str) -> dict[str, str]:
    """Get the weather in a city."""
    return {"city": city, "sky": "clear"}


async def get_weather_slowly(city: str) -> dict[str, str]:
    await asyncio.sleep(0)
    return get_weather(city)


def test_functions_as_tools(serve: Serve) -> None:
    server = serve(use_tool)
    with Client(server.running.target) as client:
        run = client.chat_with_tools("Weather in Oslo?", [get_weather], tool_choice="required", system="Hm.")
        # Goes on from there, without the functions.
        client.chat([*run.turns, user("Thanks.")])
    assert run.answer.text == 'It gave {"city": "Oslo", "sky": "clear"}.'
    first, second, third = server.running.engine.asked
    assert first.tools[0].description == "Get the weather in a city."
    assert (first.tool_choice.mode, second.tool_choice.mode) == (ToolChoiceMode.REQUIRED, ToolChoiceMode.AUTO)
    roles = [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT, Role.USER]
    assert [message.role for message in third.messages] == roles


def test_a_models_wrong_arguments_are_reported_to_it(serve: Serve) -> None:
    def get_weather(town: str) -> str:
        return town

    server = serve(use_tool)
    with Client(server.running.target) as client:
        run = client.chat_with_tools("Weather in Oslo?", [get_weather])
    assert run.answer.text.startswith("It gave error: town: Missing required argument")


@pytest.mark.parametrize(
    "written",
    [
        '{"city":"Oslo",}',
        '{"city": "Os\nlo"}',
        '{"city": "\\d"}',
        '{"city": NaN}',
        "[1]",
        '{"city": "Os',
        "Oslo",
        "",
    ],
)
def test_a_model_that_writes_no_json_is_told(serve: Serve, written: str) -> None:
    async def mistaken(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if isinstance(request.messages[-1].parts[0], ToolResultPart) or not request.tools:
            async for event in use_tool(request):
                yield event
            return
        yield accepted()
        yield Deltas((ToolCallDelta(0, 0, "call_1", "get_weather", written),), usage(1))
        yield finished(2, FinishReason.TOOL_CALLS)

    server = serve(mistaken)
    with Client(server.running.target) as client:
        run = client.chat_with_tools("Weather in Oslo?", [get_weather])
    assert run.answer.text.startswith("It gave error: ")
    assert server.running.engine.asked[1].messages[1].parts == (
        ToolCallPart("call_1", "get_weather", written or "{}"),
    )


def test_a_model_that_never_stops_calling(serve: Serve) -> None:
    server = serve(call_tool)
    with Client(server.running.target) as client, pytest.raises(ToolRoundsExceededError) as raised:
        client.chat_with_tools("Weather in Oslo?", [get_weather], max_rounds=2)
    assert len(server.running.engine.asked) == 3
    assert raised.value.run.answer.tool_calls[0].name == "get_weather"


async def test_asynchronous_functions_as_tools() -> None:
    async with running_server(use_tool) as server, AsyncClient(server.target) as client:
        run = await client.chat_with_tools("Weather in Oslo?", [get_weather_slowly])
    assert run.answer.text == 'It gave {"city": "Oslo", "sky": "clear"}.'


class Refusing(chat_service_pb2_grpc.ChatServiceServicer):
    """Refuses a number of calls, then answers."""

    def __init__(self, refusals: int, code: grpc.StatusCode) -> None:
        self.refusals = refusals
        self.code = code
        self.calls = 0

    async def Chat(self, request: Any, context: Any) -> chat_service_pb2.ChatResponse:
        await self._refuse(context)
        return chat_service_pb2.ChatResponse(id=request.request_id)

    async def StreamChat(self, request: Any, context: Any) -> AsyncIterator[chat_service_pb2.ChatChunk]:
        await self._refuse(context)
        yield chat_service_pb2.ChatChunk(id=request.request_id)

    async def _refuse(self, context: Any) -> None:
        self.calls += 1
        if self.calls <= self.refusals:
            # Come again at once: the client obeys, and the test need not wait for its own backoff.
            context.set_trailing_metadata([("grpc-retry-pushback-ms", "1")])
            await context.abort(self.code, "not now")


@asynccontextmanager
async def serving(
    servicer: Refusing, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[int]:
    """The port of a plain gRPC server."""
    server = grpc.aio.server()
    chat_service_pb2_grpc.add_ChatServiceServicer_to_server(servicer, server)
    port = (
        server.add_insecure_port("127.0.0.1:0")
        if credentials is None
        else server.add_secure_port("127.0.0.1:0", credentials)
    )
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
async def test_refusals_are_tried_again(code: grpc.StatusCode) -> None:
    servicer = Refusing(2, code)
    async with serving(servicer) as port, AsyncClient(f"127.0.0.1:{port}") as client:
        assert (await client.chat("hi", request_id="r")).request_id == "r"
        servicer.calls = 0
        assert (await client.stream("hi", request_id="s").answer()).request_id == "s"
    assert servicer.calls == 3


@pytest.mark.parametrize(
    ("code", "calls"), [(grpc.StatusCode.RESOURCE_EXHAUSTED, 4), (grpc.StatusCode.INTERNAL, 1)]
)
async def test_retries_end(code: grpc.StatusCode, calls: int) -> None:
    servicer = Refusing(100, code)
    async with serving(servicer) as port, AsyncClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(OctetRpcError) as raised:
            await client.chat("hi")
    assert (raised.value.code, servicer.calls) == (code, calls)


async def test_mutual_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, own = authority.issue_cert("octet.test"), authority.issue_cert("caller@octet.test")
    files = {"ca": authority.cert_pem, "certificate": own.cert_chain_pems[0], "key": own.private_key_pem}
    for name, blob in files.items():
        blob.write_to_path(tmp_path / name)
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    tls = Tls(**{name: tmp_path / name for name in files}, server_name="octet.test")
    async with serving(Refusing(0, grpc.StatusCode.UNAVAILABLE), credentials) as port:
        async with AsyncClient(f"127.0.0.1:{port}", tls=tls) as client:
            assert (await client.chat("hi", request_id="r")).request_id == "r"
        nobody = Tls(ca=tmp_path / "ca", server_name="octet.test")
        async with AsyncClient(f"127.0.0.1:{port}", tls=nobody) as client:
            with pytest.raises(OctetRpcError) as raised:
                await client.chat("hi", timeout=5)
    assert raised.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_half_a_client_certificate() -> None:
    with pytest.raises(ValueError, match="give both or neither"):
        Tls(certificate="client.pem")
