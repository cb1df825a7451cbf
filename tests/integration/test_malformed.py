"""What is not even a request: exact statuses with the usual details, in the metrics, and no traceback."""

import asyncio
import logging
import struct
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octet.config import ServerConfig
from octet.v1 import chat_service_pb2, embedding_service_pb2, model_service_pb2
from octet.v1.completion_service_pb2 import CancelCompletionRequest
from tests.integration import http2
from tests.integration.conftest import Running, Start, ask, complete, details_of, until
from tests.integration.fake_engine import call_tool

CHAT = "/octet.v1.ChatService/Chat"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

# A method of each kind and service, with a request of its own.
METHODS = {
    CHAT: ask(),
    "/octet.v1.ChatService/StreamChat": ask(),
    "/octet.v1.ChatService/CancelChat": chat_service_pb2.CancelChatRequest(request_ids=["a"]),
    "/octet.v1.CompletionService/Complete": complete("a"),
    "/octet.v1.CompletionService/StreamComplete": complete("a"),
    "/octet.v1.CompletionService/CancelCompletion": CancelCompletionRequest(request_ids=["a"]),
    "/octet.v1.EmbeddingService/CancelEmbed": embedding_service_pb2.CancelEmbedRequest(request_ids=["a"]),
    "/octet.v1.ModelService/GetModel": model_service_pb2.GetModelRequest(name="fake"),
    "/octet.v1.ModelService/ListModels": model_service_pb2.ListModelsRequest(),
    "/octet.v1.ModelService/CountTokens": model_service_pb2.CountTokensRequest(request=ask()),
    "/octet.v1.ModelService/Tokenize": model_service_pb2.TokenizeRequest(text="a"),
    "/octet.v1.ModelService/Detokenize": model_service_pb2.DetokenizeRequest(token_ids=[1]),
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(),
    "/grpc.health.v1.Health/List": health_pb2.HealthListRequest(),
    "/grpc.channelz.v1.Channelz/GetServers": channelz_pb2.GetServersRequest(),
}
OTHERS = ["/grpc.health.v1.Health/Watch", REFLECTION, REFLECTION.replace("v1", "v1alpha")]
GARBAGE = {
    "no message": b"\xff\xff\xff",
    "a field that ends too late": b"\x0a\x05a",
    "a group": b"\x0b\x0c" + b"\x0e",
}
# In the first field of each of these requests.
BAD_UTF8 = b"\x0a\x02\xff\xfe"


@pytest.fixture
async def running(start: Start, caplog: pytest.LogCaptureFixture) -> Running:
    caplog.set_level(logging.DEBUG, "octet")
    return await start(config=ServerConfig(port=0, channelz=True))


def counted(running: Running, method: str, code: str) -> float:
    labels = {"method": method.removeprefix("/"), "code": code, "key": ""}
    return running.server.metrics.registry.get_sample_value("octet_rpc_requests_total", labels) or 0.0


def no_traceback(caplog: pytest.LogCaptureFixture) -> bool:
    return all(record.exc_info is None and record.levelno < logging.ERROR for record in caplog.records)


async def converse(call: Any, *messages: bytes) -> None:
    """Writes the messages and reads whatever comes."""
    for message in messages:
        await call.write(message)
    await call.done_writing()
    async for _ in call:
        pass


async def expect_malformed(running: Running, method: str, data: bytes) -> str:
    call = running.channel.stream_stream(method)(metadata=(("x-request-id", "mine"),))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await converse(call, data)
    error = raised.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, (method, data)
    details = details_of(error)
    assert (details.info.reason, details.info.domain) == ("MALFORMED_REQUEST", "octet.v1")
    [violation] = details.bad_request.field_violations
    assert violation.field == ""
    assert ("x-request-id", "mine") in tuple(error.trailing_metadata() or ())
    return error.details() or ""


@pytest.mark.parametrize("method", [*METHODS, *OTHERS])
@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_bytes_that_are_no_message(
    running: Running, caplog: pytest.LogCaptureFixture, method: str, data: bytes
) -> None:
    assert "cannot be read" in await expect_malformed(running, method, data)
    await until(lambda: counted(running, method, "INVALID_ARGUMENT") == 1)
    assert no_traceback(caplog)
    assert sum(record.name == "octet" for record in caplog.records) <= 1
    assert running.engine.asked == []


@pytest.mark.parametrize(
    "method",
    [
        CHAT,
        "/octet.v1.ChatService/CancelChat",
        "/octet.v1.ModelService/Tokenize",
        "/grpc.health.v1.Health/Check",
        REFLECTION,
    ],
)
async def test_strings_that_are_not_utf_8(running: Running, method: str) -> None:
    assert "UTF-8" in await expect_malformed(running, method, BAD_UTF8)


async def test_the_same_of_requests_that_are_looked_at_in_threads(running: Running) -> None:
    long = ask("x" * 100_000).SerializeToString()
    assert "UTF-8" in await expect_malformed(running, CHAT, long + BAD_UTF8)
    assert "ends within" in await expect_malformed(running, CHAT, long + b"\x0a")
    assert "longer than the message" in await expect_malformed(running, CHAT, long + b"\x0a\x05")
    assert "wire type" in await expect_malformed(running, CHAT, long + b"\x0b\x0c")
    assert "10 bytes" in await expect_malformed(running, CHAT, long + b"\x0a" + b"\xff" * 11)
    deep = b"\x1a\x00"
    while len(deep) < 100_000 or deep.count(b"\x2a") < 200:
        # Tool.parameters, Struct.fields, its value, its struct.
        deep = _held(5, deep)
        deep = _held(2, deep)
        deep = _held(1, deep)
    assert "nested" in await expect_malformed(running, CHAT, _held(3, _held(3, deep)))


def _held(number: int, data: bytes) -> bytes:
    length, size = b"", len(data)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


async def test_reflection_goes_on_until_a_message_is_none(running: Running) -> None:
    call = running.channel.stream_stream(REFLECTION)()
    await call.write(b"\x3a\x00")
    assert await call.read() != grpc.aio.EOF
    await call.write(b"\xff")
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_reflection_takes_no_large_message(running: Running) -> None:
    assert "more than the 65536" in await expect_malformed(running, REFLECTION, b"\x3a\x00" * 50_000)


async def test_the_same_of_calls_without_a_key(start: Start) -> None:
    guarded = await start(config=ServerConfig(port=0, api_key="key"))
    for method in METHODS:
        open_to_all = "Health" in method
        call = guarded.channel.stream_stream(method)()
        # The status may come before everything is sent.
        with suppress(grpc.aio.AioRpcError):
            await converse(call, b"\xff")
        expected = grpc.StatusCode.INVALID_ARGUMENT if open_to_all else grpc.StatusCode.UNAUTHENTICATED
        if "channelz" not in method:
            assert await call.code() == expected, method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [0, 2])
async def test_one_message_is_what_most_methods_take(
    running: Running, caplog: pytest.LogCaptureFixture, method: str, count: int
) -> None:
    call = running.channel.stream_stream(method)()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await converse(call, *[METHODS[method].SerializeToString()] * count)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "its method takes one" in (raised.value.details() or "")
    await until(lambda: counted(running, method, "INVALID_ARGUMENT") == 1)
    assert no_traceback(caplog)


@pytest.mark.parametrize("method", METHODS)
async def test_the_methods_take_their_own_requests(start: Start, method: str) -> None:
    running = await start(call_tool, config=ServerConfig(port=0, channelz=True))
    call = running.channel.stream_stream(method)()
    await call.write(METHODS[method].SerializeToString())
    await call.done_writing()
    assert [answer async for answer in call]
    assert await call.code() == grpc.StatusCode.OK


async def test_health_lists_every_service_without_a_key(start: Start) -> None:
    guarded = await start(config=ServerConfig(port=0, api_key="key"))
    listed = await health_pb2_grpc.HealthStub(guarded.channel).List(health_pb2.HealthListRequest())
    answers = ("octet.v1.ChatService", "octet.v1.CompletionService", "octet.v1.ModelService")
    assert {name: status.status for name, status in listed.statuses.items()} == {
        **dict.fromkeys(("", *answers), health_pb2.HealthCheckResponse.SERVING),
        "octet.v1.EmbeddingService": health_pb2.HealthCheckResponse.NOT_SERVING,
    }
    await guarded.server.drain()
    listed = await health_pb2_grpc.HealthStub(guarded.channel).List(health_pb2.HealthListRequest())
    assert {status.status for status in listed.statuses.values()} == {
        health_pb2.HealthCheckResponse.NOT_SERVING
    }


HEADERS = dict(http2.CHAT_HEADERS) | {":path": CHAT}


# What gRPC's core or Octet makes of it; a status, or that the stream was reset with an HTTP/2 error.
BY_HAND = {
    "content type of something else": ({"content-type": "text/plain"}, http2.framed(b""), "3"),
    "content type with a suffix": ({"content-type": "application/grpc+json"}, http2.framed(b"{}"), "3"),
    "no message": ({}, b"", "3"),
    "half a message": ({}, http2.framed(b"abcd")[:-2], "3"),
    "less than a message's head": ({}, b"\0\0", "3"),
    "GET": ({":method": "GET"}, http2.framed(b""), "reset 2"),
    "compression that nobody knows": ({"grpc-encoding": "brotli"}, http2.framed(b"x", 1), "13"),
    "compressed without saying how": ({}, http2.framed(b"x", 1), "13"),
    "compressed wrongly": ({"grpc-encoding": "gzip"}, http2.framed(b"x", 1), "13"),
    "a longer message than is taken": ({}, struct.pack(">BI", 0, 2**31) + b"x" * 100, "8"),
    "a deadline that is no number": ({"grpc-timeout": "soon"}, http2.framed(b""), "13"),
    # Whoever notices first: gRPC's core or admission.
    "a deadline that has passed": ({"grpc-timeout": "0n"}, http2.framed(b""), ("4", "8")),
    "a name in capitals": ({"X-Name": "x"}, http2.framed(b""), "13"),
    "base64 that is none": ({"x-bin": "!!"}, http2.framed(b""), "13"),
    "metadata that is not ASCII": ({"x-name": "é"}, http2.framed(b""), "3"),
    "metadata that is no text": ({"x-name": b"\xff\xfe"}, http2.framed(b""), "3"),
    "a request id that is no text": ({"x-request-id": b"\xff\xfe"}, http2.framed(b""), "3"),
    "a service that nobody has": ({":path": "/a.B/C"}, http2.framed(b""), "12"),
    "a method that nobody has": ({":path": "/octet.v1.ChatService/C"}, http2.framed(b""), "12"),
    "a path that is none": ({":path": "chat"}, http2.framed(b""), "12"),
    "an empty path": ({":path": "/"}, http2.framed(b""), "12"),
    "a path that is not ASCII": ({":path": "/é"}, http2.framed(b""), "12"),
    "a path that is no text": ({":path": b"/\xff\xfe"}, http2.framed(b""), "12"),
}


@pytest.mark.parametrize("case", BY_HAND)
async def test_calls_by_hand(running: Running, caplog: pytest.LogCaptureFixture, case: str) -> None:
    changes, data, expected = BY_HAND[case]
    headers = list((HEADERS | changes).items())
    said = await asyncio.to_thread(http2.exchange, running.target, headers, data)
    outcome = said.get("grpc-status") or f"reset {said.get('reset')}"
    assert outcome in ((expected,) if isinstance(expected, str) else expected), said
    assert no_traceback(caplog)
    await running.chat.Chat(ask())


async def test_many_headers(running: Running) -> None:
    headers = [*HEADERS.items(), *((f"x-{i}", "v") for i in range(250))]
    data = http2.framed(ask("hi").SerializeToString())
    assert (await asyncio.to_thread(http2.exchange, running.target, headers, data))["grpc-status"] == "0"
    headers += [("x-request-id", "mine"), *((f"x-{i}", "v") for i in range(250, 1200))]
    said = await asyncio.to_thread(http2.exchange, running.target, headers, data)
    assert (said["grpc-status"], said["x-request-id"]) == ("3", "mine")
    assert "entries of metadata, more than 1000" in said["grpc-message"]
    await until(lambda: counted(running, CHAT, "INVALID_ARGUMENT") == 1)


async def test_many_headers_of_a_call_with_many_messages(running: Running) -> None:
    headers = [*(HEADERS | {":path": REFLECTION}).items(), *((f"x-{i}", "v") for i in range(1200))]
    said = await asyncio.to_thread(http2.exchange, running.target, headers, http2.framed(b"\x3a\x00"))
    assert said["grpc-status"] == "3"
    assert "entries of metadata, more than 1000" in said["grpc-message"]


@pytest.mark.parametrize(
    "values",
    [
        ("Bearer wrong", "Bearer key"),
        ("Bearer key", "Bearer wrong"),
        ("Bearer key", "Bearer key"),
        ("", "Bearer key"),
    ],
)
async def test_a_key_is_sent_once(start: Start, values: tuple[str, str]) -> None:
    guarded = await start(config=ServerConfig(port=0, api_key="key"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await guarded.chat.Chat(ask(), metadata=[("authorization", value) for value in values])
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert "2 times" in (raised.value.details() or "")
    assert guarded.engine.asked == []


async def test_a_key_that_is_no_text(start: Start) -> None:
    guarded = await start(config=ServerConfig(port=0, api_key="key"))
    headers = [*HEADERS.items(), ("authorization", b"Bearer \xff\xfe")]
    said = await asyncio.to_thread(http2.exchange, guarded.target, headers, http2.framed(b""))
    assert said["grpc-status"] == "16"
