"""Requests that hold more than any prompt could: refused by field, before they are priced or converted."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from octet.config import ServerConfig
from octet.engine.types import Tokens
from octet.rpc import translator
from octet.translate.values import dict_to_struct
from octet.v1 import chat_service_pb2, content_pb2, model_service_pb2, tool_pb2
from tests.integration.conftest import Start, ask, details_of, until
from tests.integration.test_malformed import no_traceback

TURN = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text="a")])


def with_parts(count: int) -> chat_service_pb2.ChatRequest:
    turn = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text="a")] * count)
    return chat_service_pb2.ChatRequest(messages=[turn])


def with_calls(count: int, length: int) -> chat_service_pb2.ChatRequest:
    request = ask()
    arguments = '{"a": "' + "x" * length + '"}'
    calls = request.messages.add(role=content_pb2.ROLE_ASSISTANT).parts
    results = request.messages.add(role=content_pb2.ROLE_TOOL).parts
    for i in range(count):
        calls.add(tool_call=tool_pb2.ToolCall(id=str(i), name="f", arguments_json=arguments))
        results.add(tool_result=tool_pb2.ToolResult(call_id=str(i), text="x"))
    return request


def with_numbers(count: int) -> chat_service_pb2.ChatRequest:
    request = with_calls(1, 1)
    request.messages[2].parts[0].tool_result.data.CopyFrom(dict_to_struct({"x": [1] * count}))
    return request


# The scripted engine's context window has 4096 tokens.
FLOODS: dict[str, tuple[chat_service_pb2.ChatRequest, str, str]] = {
    "a few parts too many": (with_parts(1025), "messages[0].parts", "to 1025, more than the 1024"),
    "a few messages too many": (
        chat_service_pb2.ChatRequest(messages=[TURN] * 1025),
        "messages",
        "has 1025 messages, more than the 1024",
    ),
    "parts": (with_parts(300_000), "messages", "more than 81920 fields"),
    "messages": (
        chat_service_pb2.ChatRequest(messages=[TURN] * 100_000),
        "messages",
        "more than 81920 fields",
    ),
    "empty messages": (chat_service_pb2.ChatRequest(messages=[{}] * 100_000), "messages", "81920 fields"),
    "a few values too many": (
        with_numbers(5000),
        "messages[2].parts[0].tool_result.data",
        "to more than the 2048 ",
    ),
    "values": (with_numbers(300_000), "messages", "more than 81920 fields"),
    "text": (ask("x" * 5_000_000), "messages", "more than 4325376 bytes without its pictures"),
    "tool calls": (with_calls(30, 1_000_000), "messages", "more than 4325376 bytes without its pictures"),
    "tools": (chat_service_pb2.ChatRequest(messages=[TURN], tools=[{}] * 100_000), "tools", "81920 fields"),
    "stop texts": (ask(sampling={"stop": ["x"] * 1_000_000}), "sampling.stop", "more than 81920 fields"),
    "biases": (
        ask(sampling={"logit_bias": dict.fromkeys(range(100_000), 1.0)}),
        "sampling.logit_bias",
        "more than 81920 fields",
    ),
    "template variables": (
        ask(chat_template_args=dict_to_struct({str(i): i for i in range(50_000)})),
        "chat_template_args.fields",
        "more than 81920 fields",
    ),
}


async def refused(call: Any, field: str, sentence: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(raised.value)
    [violation] = details.bad_request.field_violations
    assert violation.field == field
    assert sentence in violation.description
    assert details.info.reason == "INVALID_FIELD"


@pytest.mark.parametrize("flood", FLOODS)
async def test_floods(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flood: str
) -> None:
    request, field, sentence = FLOODS[flood]
    running = await start()
    if "values" not in flood:

        def forbidden(*args: object, **kwargs: object) -> object:
            raise AssertionError("a refused request is priced or translated")

        monkeypatch.setattr(translator, "to_generation_request", forbidden)
        monkeypatch.setattr(translator, "estimate", forbidden)
    await refused(running.chat.Chat(request), field, sentence)
    count = model_service_pb2.CountTokensRequest(request=request)
    await refused(running.models.CountTokens(count), f"request.{field}", sentence)
    assert running.engine.asked == running.engine.counted == []
    assert running.server.admission.load().token_calls == 0
    assert no_traceback(caplog)


async def test_the_same_of_other_methods(start: Start) -> None:
    running = await start()
    cancel = chat_service_pb2.CancelChatRequest(request_ids=[""] * 100_000)
    await refused(running.chat.CancelChat(cancel), "request_ids", "more than 81920 fields")
    text = model_service_pb2.TokenizeRequest(text="x" * 5_000_000)
    await refused(running.models.Tokenize(text), "text", "more than 4325376 bytes")
    ids = model_service_pb2.DetokenizeRequest(token_ids=[1] * 5_000_000)
    await refused(running.models.Detokenize(ids), "token_ids", "more than 4325376 bytes")
    name = model_service_pb2.GetModelRequest(name="x" * 5_000_000)
    await refused(running.models.GetModel(name), "name", "more than 4325376 bytes")


async def test_what_is_longer_than_any_request_is_not_even_received(start: Start) -> None:
    running = await start()
    for request in (with_calls(60, 1_000_000), ask("x" * 63_000_000)):
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as raised:
            await running.chat.Chat(request)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_what_is_within_the_limits_is_answered(start: Start) -> None:
    running = await start()
    for request in (with_parts(1024), with_numbers(2000), with_calls(4, 900_000), ask("x" * 4_000_000)):
        assert (await running.chat.Chat(request)).candidates
    picture = ask()
    picture.messages[0].parts.add().image.data = b"no picture" * 1_000_000
    with pytest.raises(grpc.aio.AioRpcError, match="image"):
        await running.chat.Chat(picture)


async def test_a_flood_of_calls_about_tokens_is_its_callers_own(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever floods waits behind himself; another's call is answered while they all wait."""
    keys = tmp_path / "keys"
    keys.write_text("flood one\nother two\n")
    running = await start(config=ServerConfig(port=0, api_keys_file=str(keys)))
    release = asyncio.Event()
    running_texts: list[str] = []

    async def tokenize(text: str, *, add_special_tokens: bool, parse_special_tokens: bool | None) -> Tokens:
        running_texts.append(text)
        if text == "slow":
            await release.wait()
        return Tokens((1,), ("x",))

    async def detokenize(ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return "x"

    monkeypatch.setattr(running.engine, "tokenize", tokenize)
    monkeypatch.setattr(running.engine, "detokenize", detokenize)
    slow = model_service_pb2.TokenizeRequest(text="slow")
    flood = [
        asyncio.ensure_future(running.models.Tokenize(slow, metadata=(("authorization", "Bearer one"),)))
        for _ in range(64)
    ]
    await until(lambda: running.server.admission.load().token_calls == 64)
    mine = {"metadata": (("authorization", "Bearer two"),), "timeout": 10}
    await running.models.Tokenize(model_service_pb2.TokenizeRequest(text="quick"), **mine)
    await running.models.Detokenize(model_service_pb2.DetokenizeRequest(token_ids=[1]), **mine)
    await running.models.CountTokens(model_service_pb2.CountTokensRequest(request=ask()), **mine)
    assert running_texts.count("slow") == 2
    release.set()
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    codes = [outcome.code() for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    # The queue was full: for one call of another's, the newest of the flood's made room.
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED]
