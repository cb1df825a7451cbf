"""ModelService: what is served."""

from typing import TypeAlias

import grpc

from octet.errors import InvalidRequestError
from octet.rpc.gate import EngineGate
from octet.translate.media import ImageLimits
from octet.translate.model import to_model, to_models
from octet.translate.request import resolve_model
from octet.v1 import model_service_pb2, model_service_pb2_grpc

# Quoted: the class takes type arguments in its stub only.
ListContext: TypeAlias = (
    "grpc.aio.ServicerContext[model_service_pb2.ListModelsRequest, model_service_pb2.ListModelsResponse]"
)
GetContext: TypeAlias = (
    "grpc.aio.ServicerContext[model_service_pb2.GetModelRequest, model_service_pb2.GetModelResponse]"
)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Describes the engine's model under each of its names.

    Args:
        gate: gives the engine.
        limits: limits on pictures.
    """

    def __init__(self, gate: EngineGate, limits: ImageLimits) -> None:
        self._gate = gate
        self._limits = limits

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: ListContext
    ) -> model_service_pb2.ListModelsResponse:
        """Lists the models, the default one first."""
        models = to_models(self._gate.engine().model, self._limits)
        return model_service_pb2.ListModelsResponse(models=models)

    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: GetContext
    ) -> model_service_pb2.GetModelResponse:
        """Gives one model."""
        if not request.name:
            raise InvalidRequestError("name", "name the model; ListModels lists the names")
        info = self._gate.engine().model
        name = resolve_model(request.name, info)
        return model_service_pb2.GetModelResponse(model=to_model(name, info, self._limits))
