"""Whoever gives up, and however: the engine stops working for him."""

import asyncio
import io
import threading

import grpc
import pytest
from PIL import Image

from octet.config import ServerConfig
from octet.rpc import translator as translator_module
from octet.v1 import chat_service_pb2, content_pb2
from tests.integration.conftest import Running, Start, ask, code_of, details_of, rest_of
from tests.integration.fake_engine import Endless

NOTICE_SECONDS = 1.0
"""By then the engine must have stopped."""


async def idle(running: Running) -> None:
    await asyncio.wait_for(running.engine.idle.wait(), NOTICE_SECONDS)
    assert running.engine.unfinished == set()


def cancel(*ids: str) -> chat_service_pb2.CancelChatRequest:
    return chat_service_pb2.CancelChatRequest(request_ids=ids)


async def test_client_cancels_a_stream(start: Start) -> None:
    running = await start(Endless())
    stream = running.chat.StreamChat(ask())
    await stream.read()
    assert len(running.engine.unfinished) == 1
    stream.cancel()
    await idle(running)


async def test_client_cancels_a_unary_call(start: Start) -> None:
    script = Endless()
    running = await start(script)
    call = running.chat.Chat(ask())
    await asyncio.wait_for(script.started.wait(), 5)
    call.cancel()
    await idle(running)


async def test_client_closes_its_channel(start: Start) -> None:
    running = await start(Endless())
    stream = running.chat.StreamChat(ask())
    await stream.read()
    await running.channel.close()
    await idle(running)


@pytest.mark.parametrize("method", ["Chat", "StreamChat"])
async def test_deadline(start: Start, method: str) -> None:
    running = await start(Endless())
    call = getattr(running.chat, method)(ask(), timeout=0.3)
    code = await (call.code() if method == "Chat" else code_of(call))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(running.engine.asked) == 1
    await idle(running)


async def test_the_id_of_a_call_whose_deadline_passes_came_when_it_was_let_in(start: Start) -> None:
    """gRPC's own end of a call has neither id nor details, so that is where to look for it."""
    running = await start(Endless())
    stream = running.chat.StreamChat(ask(), timeout=0.5, metadata=[("x-request-id", "mine")])
    assert await code_of(stream) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert ("x-request-id", "mine") in tuple(await stream.initial_metadata())
    await idle(running)


async def test_cancel_chat_ends_a_stream_ok(start: Start) -> None:
    running = await start(Endless())
    request = ask(request_id="r1", sampling=chat_service_pb2.SamplingParams(n=2))
    stream = running.chat.StreamChat(request)
    chunks = [await stream.read(), await stream.read()]
    response = await running.chat.CancelChat(cancel("r1", "unknown", "r1"))
    assert list(response.cancelled_ids) == ["r1"]
    chunks += await rest_of(stream)
    assert await code_of(stream) == grpc.StatusCode.OK
    last = chunks[-1]
    assert {delta.index: delta.finish_reason for delta in last.deltas} == dict.fromkeys(
        (0, 1), chat_service_pb2.FINISH_REASON_CANCELLED
    )
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (7, 1)
    await idle(running)


async def test_cancel_chat_ends_a_unary_call_with_what_there_is(start: Start) -> None:
    script = Endless()
    running = await start(script)
    call = running.chat.Chat(ask(request_id="r1"))
    await asyncio.wait_for(script.started.wait(), 5)
    await running.chat.CancelChat(cancel("r1"))
    response = await call
    [candidate] = response.candidates
    assert [part.text for part in candidate.message.parts] == ["first "]
    assert candidate.finish_reason == chat_service_pb2.FINISH_REASON_CANCELLED


async def test_cancel_chat_before_the_prompt_is_accepted(start: Start) -> None:
    script = Endless(accept=False)
    running = await start(script)
    stream = running.chat.StreamChat(ask(request_id="r1"))
    await asyncio.wait_for(script.started.wait(), 5)
    await running.chat.CancelChat(cancel("r1"))
    first, last = [chunk async for chunk in stream]
    assert first.id == "r1"
    assert last.deltas[0].finish_reason == chat_service_pb2.FINISH_REASON_CANCELLED
    await idle(running)


async def test_cancel_chat_is_idempotent(start: Start) -> None:
    running = await start(Endless())
    stream = running.chat.StreamChat(ask(request_id="r1"))
    await stream.read()
    answers = [await running.chat.CancelChat(cancel("r1")) for _ in range(3)]
    assert [list(answer.cancelled_ids) for answer in answers] == [["r1"], [], []]
    assert await code_of(stream) == grpc.StatusCode.OK


@pytest.mark.parametrize("ids", [[], ["x"] * 1001, [""]])
async def test_cancel_chat_refuses_bad_ids(start: Start, ids: list[str]) -> None:
    running = await start()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.CancelChat(cancel(*ids))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(raised.value).bad_request.field_violations[0].field.startswith("request_ids")


async def test_cancel_while_a_picture_is_decoded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding is held up in its thread: the event loop still answers, and the engine never hears of it."""
    decoding, go_on = threading.Event(), threading.Event()
    translate = translator_module.to_generation_request

    def slow(*args: object, **kwargs: object) -> object:
        decoding.set()
        go_on.wait(10)
        return translate(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(translator_module, "to_generation_request", slow)
    running = await start(config=ServerConfig(port=0, image_threads=1))
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    request = ask(request_id="r1")
    request.messages[0].parts.add(image=content_pb2.Image(data=file.getvalue()))
    stream = running.chat.StreamChat(request)
    try:
        await asyncio.to_thread(decoding.wait, 5)
        answer = await asyncio.wait_for(running.chat.CancelChat(cancel("r1")), NOTICE_SECONDS)
        assert list(answer.cancelled_ids) == ["r1"]
        assert await asyncio.wait_for(code_of(stream), NOTICE_SECONDS) == grpc.StatusCode.OK
    finally:
        go_on.set()
    assert running.engine.asked == []
