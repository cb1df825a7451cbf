"""The methods that are called, and the messages that they take and give."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from smg_grpc_proto import vllm_engine_pb2

from octet.kserve import grpc_service_pb2
from octet.v1 import (
    admin_service_pb2,
    chat_service_pb2,
    completion_service_pb2,
    embedding_service_pb2,
    model_service_pb2,
)

OWN = "/octet.v1."
ADMIN = "/octet.v1.AdminService/"
GATEWAY = "/vllm.grpc.engine."
KSERVE = "/inference."
HEALTH = "/grpc.health.v1."

STREAM_CHAT = "/octet.v1.ChatService/StreamChat"
CHAT = "/octet.v1.ChatService/Chat"
COMPLETE = "/octet.v1.CompletionService/Complete"
STREAM_COMPLETE = "/octet.v1.CompletionService/StreamComplete"
EMBED = "/octet.v1.EmbeddingService/Embed"
CANCEL_CHAT = "/octet.v1.ChatService/CancelChat"
COUNT_TOKENS = "/octet.v1.ModelService/CountTokens"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
WATCH = "/grpc.health.v1.Health/Watch"

_FILES = (
    *(chat_service_pb2, completion_service_pb2, embedding_service_pb2, model_service_pb2),
    *(admin_service_pb2, grpc_service_pb2),
    *(health_pb2, reflection_pb2, channelz_pb2),
)


@dataclass(frozen=True)
class Method:
    """A method that the server has.

    Attributes:
        path: as it stands in calls.
        request: the class of its requests.
        response: the class of what it answers.
        many: whether it takes more than one request.
        streams: whether it answers with more than one message.
    """

    path: str
    request: type[Any]
    response: type[Any]
    many: bool = False
    streams: bool = False


@cache
def methods() -> dict[str, Method]:
    """All methods by path, those of the gateways' service among them, which only some servers have."""
    files = (*_FILES, vllm_engine_pb2)
    found = {
        method.path: method
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in _of(service)
    }
    # The same messages, by the name that newer clients ask for.
    for path, method in list(found.items()):
        if ".v1alpha." in path:
            path = path.replace(".v1alpha.", ".v1.")
            found[path] = Method(path, method.request, method.response, method.many, method.streams)
    return found


def _of(service: ServiceDescriptor) -> Iterator[Method]:
    for method in service.methods:
        yield Method(
            f"/{service.full_name}/{method.name}",
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
            method.client_streaming,
            method.server_streaming,
        )
