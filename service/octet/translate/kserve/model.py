"""What is served, in KServe's and in Triton's terms."""

from collections.abc import Iterable

from octet import __version__
from octet.engine.types import ModelInfo
from octet.kserve import grpc_service_pb2, model_config_pb2
from octet.translate.kserve.request import VERSION
from octet.translate.kserve.tensors import INPUTS, OUTPUTS, Spec

BACKEND = "vllm"
"""Whose tensors a model has."""

# Of Triton's extensions.
_EXTENSIONS = ("model_configuration", "parameters")
_TYPES = {
    "BYTES": model_config_pb2.TYPE_STRING,
    "BOOL": model_config_pb2.TYPE_BOOL,
    "UINT32": model_config_pb2.TYPE_UINT32,
    "FP32": model_config_pb2.TYPE_FP32,
}


def to_server_metadata() -> grpc_service_pb2.ServerMetadataResponse:
    """What the server is."""
    return grpc_service_pb2.ServerMetadataResponse(name="octet", version=__version__, extensions=_EXTENSIONS)


def to_model_metadata(name: str, model: ModelInfo) -> grpc_service_pb2.ModelMetadataResponse:
    """The tensors of `model` under the served name `name`."""
    tensor = grpc_service_pb2.ModelMetadataResponse.TensorMetadata
    return grpc_service_pb2.ModelMetadataResponse(
        name=name,
        versions=[VERSION],
        platform=BACKEND,
        inputs=[tensor(name=s.name, datatype=s.datatype, shape=[s.dim]) for s in _inputs(model)],
        outputs=[tensor(name=s.name, datatype=s.datatype, shape=[s.dim]) for s in OUTPUTS.values()],
    )


def to_model_config(name: str, model: ModelInfo) -> model_config_pb2.ModelConfig:
    """The configuration of `model` under the served name `name`."""
    config = model_config_pb2.ModelConfig(
        name=name,
        backend=BACKEND,
        input=[
            model_config_pb2.ModelInput(
                name=s.name, data_type=_TYPES[s.datatype], dims=[s.dim], optional=s.name != "text_input"
            )
            for s in _inputs(model)
        ],
        output=[
            model_config_pb2.ModelOutput(name=s.name, data_type=_TYPES[s.datatype], dims=[s.dim])
            for s in OUTPUTS.values()
        ],
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(decoupled=True),
    )
    if model.takes_images and model.picture_mark:
        config.parameters["picture_mark"].string_value = model.picture_mark
    return config


def _inputs(model: ModelInfo) -> Iterable[Spec]:
    """The inputs of a model: pictures only where it takes them."""
    return [spec for spec in INPUTS.values() if spec.name != "image" or model.takes_images]
