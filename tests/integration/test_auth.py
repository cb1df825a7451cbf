"""The API key guards every service but health."""

import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from octet.config import ServerConfig
from octet.v1 import chat_service_pb2, model_service_pb2
from tests.integration.conftest import Running, Start, ask, code_of, details_of

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
    assert (await call.initial_metadata())["x-request-id"] == "r7"


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
