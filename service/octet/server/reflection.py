"""grpc.reflection, v1 and v1alpha, for grpcurl, ghz and their like."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1_NAME = "grpc.reflection.v1.ServerReflection"
V1ALPHA_NAME: str = reflection.SERVICE_NAME


class ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """The package's servicer, which also finds the file of a method's symbol.

    ghz asks for `octet.v1.ChatService.Chat`; Python's descriptor pool knows services but not their methods.
    """

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        service, _, method = fully_qualified_name.rpartition(".")
        pool = descriptor_pool.Default()
        try:
            is_method = method in pool.FindServiceByName(service).methods_by_name
        except KeyError:
            is_method = False
        return super()._file_containing_symbol(request, service if is_method else fully_qualified_name)


def add_reflection(server: grpc.aio.Server, service_names: Iterable[str]) -> None:
    """Adds both versions, which share their messages' wire format, to `server`."""
    _add_v1_descriptor()
    names = (*service_names, V1_NAME, V1ALPHA_NAME)
    handlers = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            ReflectionServicer(names).ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
    }
    for name in (V1_NAME, V1ALPHA_NAME):
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])


def _add_v1_descriptor() -> None:
    """Makes v1 able to describe itself; the package has the descriptor of v1alpha only."""
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    text = text_format.MessageToString(alpha).replace(alpha.package, V1_NAME.rpartition(".")[0])
    file = text_format.Parse(text, FileDescriptorProto())
    file.name = "grpc/reflection/v1/reflection.proto"
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
