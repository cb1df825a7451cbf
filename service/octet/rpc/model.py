"""ModelService: what is served; how long prompts are, and what they consist of."""

import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc

from octet.engine.protocol import Engine
from octet.engine.types import PromptAccepted, Service
from octet.errors import InvalidRequestError
from octet.rpc import call
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.ticket import Ticket
from octet.rpc.gate import EngineGate
from octet.rpc.running import RunningRequests
from octet.rpc.translator import Translator
from octet.translate.media import ImageLimits
from octet.translate.model import to_count, to_model, to_models, to_text, to_token_ids, to_tokens
from octet.translate.request import resolve_model
from octet.v1 import model_service_pb2, model_service_pb2_grpc

# Quoted: the class takes type arguments in its stub only.
ListContext: TypeAlias = (
    "grpc.aio.ServicerContext[model_service_pb2.ListModelsRequest, model_service_pb2.ListModelsResponse]"
)
GetContext: TypeAlias = (
    "grpc.aio.ServicerContext[model_service_pb2.GetModelRequest, model_service_pb2.GetModelResponse]"
)
CountContext: TypeAlias = (
    "grpc.aio.ServicerContext[model_service_pb2.CountTokensRequest, model_service_pb2.CountTokensResponse]"
)
TokenizeContext: TypeAlias = (
    "grpc.aio.ServicerContext[model_service_pb2.TokenizeRequest, model_service_pb2.TokenizeResponse]"
)
DetokenizeContext: TypeAlias = (
    "grpc.aio.ServicerContext[model_service_pb2.DetokenizeRequest, model_service_pb2.DetokenizeResponse]"
)
T = TypeVar("T")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Describes the engine's model under each of its names, and asks it about tokens.

    Args:
        gate: gives the engine.
        running: the requests that are being answered.
        admission: lets calls in that ask about tokens.
        limits: limits on pictures.
        translator: translates requests.
    """

    def __init__(
        self,
        gate: EngineGate,
        running: RunningRequests,
        admission: Admission,
        limits: ImageLimits,
        translator: Translator,
    ) -> None:
        self._gate = gate
        self._running = running
        self._admission = admission
        self._limits = limits
        self._translator = translator

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

    async def CountTokens(
        self, request: model_service_pb2.CountTokensRequest, context: CountContext
    ) -> model_service_pb2.CountTokensResponse:
        """Counts the tokens of a prompt."""
        if not request.HasField("request"):
            raise InvalidRequestError("request", "is missing; set the request as it would be sent to Chat")
        engine = self._gate.engine_for(Service.CHAT)
        try:
            cost = await self._translator.to_cost(request.request, engine.model)
            count = partial(self._count, engine, request)
            counted = await self._until_deadline(
                context, count, images=cost.images, image_bytes=cost.image_bytes
            )
        except InvalidRequestError as error:
            raise type(error)(f"request.{error.field}", error.message) from error
        return to_count(counted)

    async def Tokenize(
        self, request: model_service_pb2.TokenizeRequest, context: TokenizeContext
    ) -> model_service_pb2.TokenizeResponse:
        """Splits a text into tokens."""
        engine = self._gate.engine()
        text = to_text(request, engine.model)
        add_special_tokens = request.add_special_tokens if request.HasField("add_special_tokens") else True
        parsed = request.parse_special_tokens if request.HasField("parse_special_tokens") else None
        return await self._until_deadline(
            context, lambda _: self._tokenize(engine, text, add_special_tokens, parsed)
        )

    async def Detokenize(
        self, request: model_service_pb2.DetokenizeRequest, context: DetokenizeContext
    ) -> model_service_pb2.DetokenizeResponse:
        """Puts tokens together to text."""
        engine = self._gate.engine()
        return await self._until_deadline(context, lambda _: self._detokenize(engine, request))

    async def _count(
        self, engine: Engine, request: model_service_pb2.CountTokensRequest, ticket: Ticket
    ) -> PromptAccepted:
        generation = await self._translator.to_generation_request(
            request.request,
            engine.model,
            request.request.request_id or call.request_id.get(),
            ticket,
        )
        return await engine.count_tokens(generation)

    async def _tokenize(
        self, engine: Engine, text: str, add_special_tokens: bool, parse_special_tokens: bool | None
    ) -> model_service_pb2.TokenizeResponse:
        tokens = await engine.tokenize(
            text, add_special_tokens=add_special_tokens, parse_special_tokens=parse_special_tokens
        )
        return await self._translator.in_thread(to_tokens, tokens)

    async def _detokenize(
        self, engine: Engine, request: model_service_pb2.DetokenizeRequest
    ) -> model_service_pb2.DetokenizeResponse:
        ids = await self._translator.in_thread(to_token_ids, request, engine.model)
        text = await engine.detokenize(ids, skip_special_tokens=request.skip_special_tokens)
        return model_service_pb2.DetokenizeResponse(text=text)

    async def _until_deadline(
        self,
        context: "grpc.aio.ServicerContext[Any, Any]",
        start: Callable[[Ticket], Awaitable[T]],
        *,
        images: int = 0,
        image_bytes: int = 0,
    ) -> T:
        """Awaits what is done for a call with so many pictures, when it is its turn.

        It ends at the call's deadline; a drain waits for it.
        """
        caller = call.caller.get()
        # An id of its own: one can count the tokens of a request that is being answered.
        with (
            self._running.register(caller, uuid.uuid4().hex, context.time_remaining()) as running,
            self._admission.enter_token_call(
                caller,
                images,
                image_bytes,
                caller_limit=call.caller_limits.get().max_concurrent_requests,
            ) as ticket,
        ):
            await running.wait_for(ticket.turn)
            return await running.wait_for(start, ticket)
