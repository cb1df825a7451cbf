"""Chats over a real channel: answers, streams, ids, and input that never reaches the engine."""

import asyncio
import io
from collections.abc import AsyncGenerator

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from PIL import Image

from octet.config import ServerConfig
from octet.engine.types import (
    Deltas,
    Event,
    GenerationRequest,
    ImagePart,
    ReasoningDelta,
    ReasoningPart,
    TextDelta,
    TextPart,
)
from octet.v1 import chat_service_pb2, content_pb2, model_service_pb2, tool_pb2
from tests.integration.conftest import Start, ask, code_of, details_of, rest_of
from tests.integration.fake_engine import PROMPT_TOKENS, Endless, accepted, call_tool, finished, text, usage


async def test_chat_answers_with_the_whole_message(start: Start) -> None:
    running = await start()
    response = await running.chat.Chat(ask("one two", request_id="r1"))
    assert (response.id, response.model) == ("r1", "fake")
    assert response.create_time.seconds > 0
    [candidate] = response.candidates
    assert candidate.message.role == content_pb2.ROLE_ASSISTANT
    assert [part.text for part in candidate.message.parts] == ["one two "]
    assert candidate.finish_reason == chat_service_pb2.FINISH_REASON_STOP
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (PROMPT_TOKENS, 2)


async def test_stream_gives_one_chunk_a_step_between_header_and_usage(start: Start) -> None:
    running = await start()
    chunks = [chunk async for chunk in running.chat.StreamChat(ask("one two three", request_id="r1"))]
    first, *steps, last = chunks
    assert (first.id, first.model, first.usage.prompt_tokens) == ("r1", "fake", PROMPT_TOKENS)
    assert not first.deltas
    assert [[delta.text for delta in chunk.deltas] for chunk in steps] == [["one "], ["two "], ["three "]]
    assert last.deltas[0].finish_reason == chat_service_pb2.FINISH_REASON_STOP
    assert last.usage.total_tokens == PROMPT_TOKENS + 3


async def test_first_chunk_leaves_before_the_first_token(start: Start) -> None:
    script = Endless(words=())
    running = await start(script)
    stream = running.chat.StreamChat(ask(request_id="r1"))
    first = await stream.read()
    assert first.id == "r1"
    assert running.engine.unfinished == {"r1"}
    script.release.set()
    assert await code_of(stream) == grpc.StatusCode.OK


async def test_candidates_stream_independently(start: Start) -> None:
    running = await start()
    request = ask("a b", sampling=chat_service_pb2.SamplingParams(n=3))
    texts = ["", "", ""]
    async for chunk in running.chat.StreamChat(request):
        for delta in chunk.deltas:
            texts[delta.index] += delta.text
    assert texts == ["a b "] * 3


async def test_tool_calls_stream_in_pieces(start: Start) -> None:
    running = await start(call_tool)
    parameters = Struct()
    parameters.update({"type": "object", "properties": {"city": {"type": "string"}}})
    request = ask("weather?", tools=[tool_pb2.Tool(name="get_weather", parameters=parameters)])
    deltas = [
        call
        async for chunk in running.chat.StreamChat(request)
        for delta in chunk.deltas
        for call in delta.tool_calls
    ]
    assert [(call.id, call.name) for call in deltas] == [("call_1", "get_weather"), ("", ""), ("", "")]
    assert "".join(call.arguments_json for call in deltas) == '{"city": "Oslo"}'
    response = await running.chat.Chat(request)
    [part] = response.candidates[0].message.parts
    assert part.tool_call.arguments["city"] == "Oslo"


async def test_reasoning_is_streamed_apart(start: Start) -> None:
    async def think(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield accepted()
        for tokens, delta in enumerate(
            (ReasoningDelta(0, "h"), ReasoningDelta(0, "m"), TextDelta(0, "Yes."))
        ):
            yield Deltas((delta,), usage(tokens))
        yield finished(3)

    running = await start(think)
    deltas = [delta async for chunk in running.chat.StreamChat(ask()) for delta in chunk.deltas]
    assert [(delta.reasoning, delta.text) for delta in deltas] == [
        ("h", ""),
        ("m", ""),
        ("", "Yes."),
        ("", ""),
    ]
    response = await running.chat.Chat(ask())
    assert list(response.candidates[0].message.parts) == [
        content_pb2.Part(reasoning="hm"),
        content_pb2.Part(text="Yes."),
    ]


async def test_what_goes_with_a_prompt_reaches_the_engine(start: Start) -> None:
    running = await start()
    request = ask(adapter="pirate", cache_salt="pepper")
    request.chat_template_args.update({"enable_thinking": False})
    request.tools.add(name="f")
    request.tool_choice.parallel_calls = False
    request.messages.add(role=content_pb2.ROLE_ASSISTANT).parts.add(reasoning="hm")
    request.messages.add(role=content_pb2.ROLE_USER).parts.add(text="Go on.")
    await running.chat.Chat(request)
    [asked] = running.engine.asked
    assert (asked.adapter, asked.cache_salt) == ("pirate", "pepper")
    assert asked.chat_template_args == {"enable_thinking": False}
    assert not asked.tool_choice.parallel_calls
    assert asked.messages[1].parts == (ReasoningPart("hm"),)


async def test_pictures_reach_the_engine_decoded(start: Start) -> None:
    running = await start()
    file = io.BytesIO()
    Image.new("L", (5, 3), 200).save(file, "PNG")
    request = ask("what is it?")
    request.messages[0].parts.add(image=content_pb2.Image(data=file.getvalue()))
    await running.chat.Chat(request)
    [asked] = running.engine.asked
    question, image = asked.messages[0].parts
    assert isinstance(question, TextPart)
    assert isinstance(image, ImagePart)
    assert (image.image.size, image.image.mode) == ((5, 3), "RGB")


async def test_many_streams_at_once_keep_apart(start: Start) -> None:
    running = await start()

    async def stream(i: int) -> str:
        chunks = running.chat.StreamChat(ask(f"a{i} b{i} c{i}"))
        return "".join([delta.text async for chunk in chunks for delta in chunk.deltas])

    answers = await asyncio.gather(*(stream(i) for i in range(50)))
    assert answers == [f"a{i} b{i} c{i} " for i in range(50)]
    assert running.engine.unfinished == set()


async def test_a_client_that_does_not_read_holds_the_engine_back(start: Start) -> None:
    """What waits for the client is what the transport's windows hold, not all that the engine could say."""
    pieces, produced = 1000, 0

    async def flood(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        nonlocal produced
        yield accepted()
        for produced in range(pieces if request.request_id == "flood" else 0):
            yield text("x" * 65536, produced)
        yield finished(pieces)

    running = await start(flood)
    stream = running.chat.StreamChat(ask(request_id="flood"))
    await stream.read()
    before = -1
    while produced != before:
        before = produced
        await asyncio.sleep(0.3)
    assert 0 < produced < pieces // 2
    length = sum(len(delta.text) for chunk in await rest_of(stream) for delta in chunk.deltas)
    assert length == pieces * 65536


async def test_request_ids(start: Start) -> None:
    running = await start()

    async def echoed(request: chat_service_pb2.ChatRequest, *metadata: tuple[str, str]) -> tuple[str, str]:
        call = running.chat.Chat(request, metadata=metadata)
        header = (await call.initial_metadata())["x-request-id"]
        return str(header), (await call).id

    assert await echoed(ask(request_id="own"), ("x-request-id", "proxy")) == ("own", "own")
    assert await echoed(ask(), ("x-request-id", "proxy")) == ("proxy", "proxy")
    made = await echoed(ask())
    assert made[0] == made[1] != (await echoed(ask()))[0]
    assert len(made[0]) == 32
    assert running.engine.asked[0].request_id == "own"


async def test_running_request_id_is_taken(start: Start) -> None:
    script = Endless()
    running = await start(script)
    stream = running.chat.StreamChat(ask(request_id="r1"))
    await stream.read()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(ask(request_id="r1"))
    assert raised.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert details_of(raised.value).info.reason == "REQUEST_ID_IN_USE"
    script.release.set()
    assert await code_of(stream) == grpc.StatusCode.OK
    assert (await running.chat.Chat(ask(request_id="r1"))).id == "r1"


BAD = {
    "messages": chat_service_pb2.ChatRequest(),
    "messages[0].parts": chat_service_pb2.ChatRequest(
        messages=[content_pb2.Message(role=content_pb2.ROLE_USER)]
    ),
    "messages[0].role": chat_service_pb2.ChatRequest(
        messages=[content_pb2.Message(role=77, parts=[content_pb2.Part(text="hi")])]  # type: ignore[arg-type]
    ),
    "messages[0].parts[0].image.data": chat_service_pb2.ChatRequest(
        messages=[
            content_pb2.Message(
                role=content_pb2.ROLE_USER,
                parts=[content_pb2.Part(image=content_pb2.Image(data=b"no image"))],
            )
        ]
    ),
    "sampling.temperature": ask(sampling=chat_service_pb2.SamplingParams(temperature=float("nan"))),
    "request_id": ask(request_id="ä\n"),
}


@pytest.mark.parametrize("field", BAD)
@pytest.mark.parametrize("method", ["Chat", "StreamChat"])
async def test_bad_input_is_refused_by_field_before_the_engine(start: Start, method: str, field: str) -> None:
    running = await start()
    call = getattr(running.chat, method)(BAD[field])
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await (call.read() if method == "StreamChat" else call)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(raised.value)
    assert [violation.field for violation in details.bad_request.field_violations] == [field]
    assert details.info.domain == "octet.v1"
    assert running.engine.asked == []
    await running.chat.Chat(ask())


async def test_picture_over_the_limit(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, max_image_bytes=1000))
    request = ask()
    request.messages[0].parts.add(image=content_pb2.Image(data=bytes(1001)))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(request)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "messages[0].parts[1].image.data"
    assert running.engine.asked == []


async def test_oversize_message(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, max_message_bytes=10_000))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(ask("x" * 10_001))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert running.engine.asked == []
    await running.chat.Chat(ask("x" * 9_000))


async def test_models(start: Start) -> None:
    running = await start()
    listed = await running.models.ListModels(model_service_pb2.ListModelsRequest())
    assert [model.name for model in listed.models] == ["fake", "fake-alias"]
    got = await running.models.GetModel(model_service_pb2.GetModelRequest(name="fake-alias"))
    assert got.model == listed.models[1]
    assert got.model.quantization.scheme == "FP8_DYNAMIC"
    answer = await running.chat.Chat(ask(model="fake-alias"))
    assert answer.model == "fake-alias"


async def test_unknown_model(start: Start) -> None:
    running = await start()
    for call in (
        running.models.GetModel(model_service_pb2.GetModelRequest(name="other")),
        running.chat.Chat(ask(model="other")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        assert details_of(raised.value).info.reason == "MODEL_NOT_FOUND"
    assert running.engine.asked == []


async def test_unnamed_model(start: Start) -> None:
    running = await start()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.models.GetModel(model_service_pb2.GetModelRequest())
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(raised.value).bad_request.field_violations[0].field == "name"
