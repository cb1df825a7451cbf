"""API keys guard every service but health."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from octet.config import ServerConfig
from octet.engine.types import Event, GenerationRequest
from octet.errors import StartupError
from octet.rpc.call import caller, caller_limits
from octet.server import reload
from octet.server.server import Server
from octet.v1 import chat_service_pb2, model_service_pb2
from tests.integration.conftest import Running, Start, ask, code_of, details_of
from tests.integration.fake_engine import accepted, finished, text
from tests.integration.logs import logged

KEY = "s3cret-key"


@pytest.fixture
async def guarded(start: Start) -> Running:
    return await start(config=ServerConfig(port=0, api_key=KEY))


def calls(running: Running, metadata: tuple[tuple[str, str], ...]) -> dict[str, grpc.aio.Call]:
    reflection = reflection_pb2_grpc.ServerReflectionStub(running.channel)
    return {
        "Chat": running.chat.Chat(ask(), metadata=metadata),
        "StreamChat": running.chat.StreamChat(ask(), metadata=metadata),
        "CancelChat": running.chat.CancelChat(
            chat_service_pb2.CancelChatRequest(request_ids=["x"]), metadata=metadata
        ),
        "ListModels": running.models.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata),
        "GetModel": running.models.GetModel(
            model_service_pb2.GetModelRequest(name="fake"), metadata=metadata
        ),
        "ServerReflectionInfo": reflection.ServerReflectionInfo(metadata=metadata),
    }


@pytest.mark.parametrize(
    ("metadata", "hint"),
    [
        ((), "carries no API key"),
        ((("authorization", "Bearer wrong"),), "wrong"),
        ((("authorization", f"Basic {KEY}"),), "wrong"),
        ((("authorization", KEY),), "wrong"),
        ((("authorization", f"Bearer {KEY}x"),), "wrong"),
        ((("authorization", ""),), "wrong"),
    ],
)
async def test_key_guards(guarded: Running, metadata: tuple[tuple[str, str], ...], hint: str) -> None:
    for name, call in calls(guarded, metadata).items():
        code = await (call.code() if isinstance(call, grpc.aio.UnaryUnaryCall) else code_of(call))
        assert code == grpc.StatusCode.UNAUTHENTICATED, (name, await call.details())
        assert hint in await call.details()
        assert KEY not in await call.details()
    assert guarded.engine.asked == []


async def test_right_key_opens(guarded: Running) -> None:
    for name, call in calls(guarded, (("authorization", f"Bearer {KEY}"),)).items():
        if isinstance(call, grpc.aio.StreamStreamCall):
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await call.done_writing()
        code = await (call.code() if isinstance(call, grpc.aio.UnaryUnaryCall) else code_of(call))
        assert code == grpc.StatusCode.OK, name


async def test_refusal_has_details_and_request_id(guarded: Running) -> None:
    call = guarded.chat.Chat(ask(), metadata=(("x-request-id", "r7"),))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    info = details_of(raised.value).info
    assert (info.reason, info.domain) == ("API_KEY_INVALID", "octet.v1")
    assert (await call.trailing_metadata())["x-request-id"] == "r7"


async def test_key_stays_out_of_the_log(guarded: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await guarded.chat.Chat(ask(), metadata=(("authorization", f"Bearer {KEY}"),))
    assert len(guarded.engine.asked) == 1
    assert caplog.records
    assert KEY not in caplog.text
    assert KEY not in repr(ServerConfig(api_key=KEY))


async def test_health_is_open(guarded: Running) -> None:
    health = health_pb2_grpc.HealthStub(guarded.channel)
    response = await health.Check(health_pb2.HealthCheckRequest())
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


async def who(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """Says whose call it is, and what its limit is."""
    yield accepted()
    yield text(f"{caller.get()} {caller_limits.get().max_concurrent_requests}", 1)
    yield finished(1)


async def said(running: Running, key: str) -> str:
    answer = await running.chat.Chat(ask(), metadata=bearer(key))
    return answer.candidates[0].message.parts[0].text


async def test_a_key_names_its_caller(start: Start) -> None:
    keys = "search one max_concurrent_requests=3\nbatch two"
    running = await start(who, config=ServerConfig(port=0, api_key="zero", api_keys=keys))
    assert [await said(running, key) for key in ("one", "two", "zero")] == [
        "search 3",
        "batch None",
        "default None",
    ]


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
async def test_the_scheme_is_not_case_sensitive(guarded: Running, scheme: str) -> None:
    await guarded.chat.Chat(ask(), metadata=(("authorization", f"{scheme} {KEY}"),))


async def test_keys_follow_their_file(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is replaced without a gap, a broken file changes nothing, and an old key ends with its line."""
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.01)
    file = tmp_path / "keys"
    file.write_text("search old\n")
    running = await start(who, config=ServerConfig(port=0, api_keys_file=str(file)))
    assert await said(running, "old") == "search None"

    async def rewrite(content: str, outcome: str) -> str:
        (tmp_path / "next").write_text(content)
        with logged(outcome) as message:
            (tmp_path / "next").rename(file)
            return await asyncio.wait_for(message, 10)

    await rewrite("search old\nsearch new\n", "API keys reloaded")
    assert [await said(running, key) for key in ("old", "new")] == ["search None"] * 2
    line = await rewrite("search\n", "API keys stay as they were: ")
    assert f"{file}:1: the key is missing behind the name" in line
    assert await said(running, "old") == "search None"
    await rewrite("search new max_concurrent_requests=2\n", "API keys reloaded")
    assert await said(running, "new") == "search 2"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await said(running, "old")
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_server_does_not_start_without_its_keys(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--api-keys-file: cannot read"):
        Server(ServerConfig(port=0, api_keys_file=str(tmp_path / "missing")))
