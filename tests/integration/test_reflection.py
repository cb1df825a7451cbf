"""Reflection, as grpcurl, grpcui and ghz ask for it."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from octet.config import ServerConfig
from octet.rpc.vllm_engine import SERVICE_NAME
from octet.server.reflection import V1_NAME, V1ALPHA_NAME
from octet.server.server import KSERVE_NAME, OWN_SERVICES
from tests.integration.conftest import Start
from tests.integration.test_vllm_engine import running_worker

VERSIONS = pytest.mark.parametrize("version", [V1_NAME, V1ALPHA_NAME])


def reflect(channel: grpc.aio.Channel, version: str) -> Any:
    return channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )


async def ask(channel: grpc.aio.Channel, version: str, **request: Any) -> ServerReflectionResponse:
    """One question, on a stream of its own."""
    [answer] = [
        answer async for answer in reflect(channel, version)(iter([ServerReflectionRequest(**request)]))
    ]
    return answer


@VERSIONS
async def test_a_methods_symbol_is_in_its_services_file(start: Start, version: str) -> None:
    channel = (await start()).channel
    by_service = await ask(channel, version, file_containing_symbol="octet.v1.ChatService")
    by_method = await ask(channel, version, file_containing_symbol="octet.v1.ChatService.Chat")
    unknown = await ask(channel, version, file_containing_symbol="octet.v1.ChatService.Nothing")
    files = map(FileDescriptorProto.FromString, by_method.file_descriptor_response.file_descriptor_proto)
    assert "octet/v1/chat_service.proto" in [file.name for file in files]
    assert by_service.file_descriptor_response == by_method.file_descriptor_response
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def describe(channel: grpc.aio.Channel, version: str) -> dict[str, list[str]]:
    """The methods of every service that is listed, out of what the server says, as grpcui does it."""
    listed = (await ask(channel, version, list_services="")).list_services_response.service
    known: dict[str, FileDescriptorProto] = {}

    async def add(**question: str) -> None:
        answer = await ask(channel, version, **question)
        assert not answer.HasField("error_response"), (question, answer)
        new = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
        known.update({file.name: file for file in new})
        for name in [name for file in list(known.values()) for name in file.dependency]:
            if name not in known:
                await add(file_by_filename=name)

    pool = DescriptorPool()
    for service in listed:
        await add(file_containing_symbol=service.name)
    while ready := [file for file in known.values() if not any(name in known for name in file.dependency)]:
        for file in ready:
            pool.AddSerializedFile(known.pop(file.name).SerializeToString())
    assert not known
    return {
        service.name: [method.name for method in pool.FindServiceByName(service.name).methods]
        for service in listed
    }


@VERSIONS
async def test_every_service_can_be_described(start: Start, version: str) -> None:
    described = await describe((await start(config=ServerConfig(port=0, channelz=True))).channel, version)
    others = {"grpc.health.v1.Health", "grpc.channelz.v1.Channelz", V1_NAME, V1ALPHA_NAME}
    assert described.keys() == {*OWN_SERVICES, *others}
    assert described["octet.v1.ChatService"] == ["Chat", "StreamChat", "CancelChat"]
    assert described[V1_NAME] == described[V1ALPHA_NAME] == ["ServerReflectionInfo"]


@VERSIONS
async def test_a_gateways_service_can_be_described(version: str) -> None:
    async with running_worker() as worker:
        described = await describe(worker.channel, version)
    assert "Generate" in described[SERVICE_NAME]


@VERSIONS
async def test_kserves_service_can_be_described(start: Start, version: str) -> None:
    described = await describe((await start(config=ServerConfig(port=0, kserve=True))).channel, version)
    assert {"ModelInfer", "ModelStreamInfer"} <= set(described[KSERVE_NAME])


async def test_reflection_can_be_switched_off(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, reflection=False))
    for version in (V1_NAME, V1ALPHA_NAME):
        call = running.channel.stream_stream(f"/{version}/ServerReflectionInfo")(iter([b""]))
        assert await call.code() == grpc.StatusCode.UNIMPLEMENTED
