"""Errors inside the server, as the client sees them."""

import logging
from collections.abc import AsyncGenerator

import grpc
import pytest

from octet.engine.types import Event, GenerationRequest
from octet.errors import ContextLengthError
from octet.server.warmup import REQUEST_ID as WARM_UP_ID
from tests.integration.conftest import Start, ask, details_of
from tests.integration.fake_engine import accepted, finished, text


async def broken(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    yield accepted()
    if request.request_id == WARM_UP_ID:
        yield finished(0)
        return
    yield text("half ", 1)
    raise RuntimeError("secret of the implementation")


async def too_long(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    if request.request_id != WARM_UP_ID:
        raise ContextLengthError(
            "messages", "the prompt has 5000 tokens; the context holds 4096 " + "ä" * 9000
        )
    yield accepted()
    yield finished(0)


async def test_unexpected_error_is_logged_but_not_leaked(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start(broken)
    stream = running.chat.StreamChat(ask(request_id="r1"))
    assert (await stream.read()).id == "r1"
    assert (await stream.read()).deltas[0].text == "half "
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream.read()
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(raised.value)
    assert details_of(raised.value).info.reason == "INTERNAL"
    [record] = caplog.records
    assert record.exc_info is not None
    assert "secret of the implementation" in str(record.exc_info[1])
    assert running.engine.unfinished == set()


async def test_engine_refuses_a_prompt_and_long_messages_are_cut(start: Start) -> None:
    running = await start(too_long)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(ask())
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(raised.value)
    assert details.info.reason == "CONTEXT_LENGTH_EXCEEDED"
    [violation] = details.bad_request.field_violations
    assert violation.field == "messages"
    assert violation.description.startswith("the prompt has 5000 tokens")
    assert violation.description.endswith("...")


async def test_unknown_method(start: Start) -> None:
    running = await start()
    call = running.channel.unary_unary("/octet.v1.ChatService/Nothing")(b"")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
