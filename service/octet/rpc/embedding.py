"""EmbeddingService: texts as vectors, and their cancellation."""

from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

import grpc

from octet.engine.protocol import Engine
from octet.engine.types import EmbeddingRequest, Service
from octet.rpc import call
from octet.rpc.admission.ticket import Ticket
from octet.rpc.answering import Answering, Asked
from octet.rpc.gate import EngineGate
from octet.rpc.running import RunningRequests
from octet.rpc.translator import Translator
from octet.translate.embedding import to_embed_response
from octet.translate.request import resolve_model, to_cancelled_ids
from octet.v1 import embedding_service_pb2, embedding_service_pb2_grpc

Request = embedding_service_pb2.EmbedRequest
# Quoted: the class takes type arguments in its stub only.
EmbedContext: TypeAlias = "grpc.aio.ServicerContext[Request, embedding_service_pb2.EmbedResponse]"
CancelContext: TypeAlias = (
    "grpc.aio.ServicerContext[embedding_service_pb2.CancelEmbedRequest, "
    "embedding_service_pb2.CancelEmbedResponse]"
)

_MANY_NUMBERS = 2**16
"""Copying so many takes a millisecond or more."""


class EmbeddingService(embedding_service_pb2_grpc.EmbeddingServiceServicer):
    """Answers with the engine's vectors.

    Args:
        gate: gives the engine.
        running: the requests that are being answered.
        answering: answers requests.
        translator: translates requests.
    """

    def __init__(
        self, gate: EngineGate, running: RunningRequests, answering: Answering, translator: Translator
    ) -> None:
        self._gate = gate
        self._running = running
        self._answering = answering
        self._translator = translator

    async def Embed(self, request: Request, context: EmbedContext) -> embedding_service_pb2.EmbedResponse:
        """Gives one vector for each input."""
        create_time = datetime.now(UTC)
        engine = self._gate.engine_for(Service.EMBEDDING)
        model = resolve_model(request.model, engine.model)
        asked = await self._asked(engine, request)
        embeddings = await self._answering.embeddings(engine, asked, context.time_remaining())
        respond = partial(
            to_embed_response,
            embeddings,
            request_id=call.request_id.get(),
            model=model,
            create_time=create_time,
        )
        if sum(len(embedding.values) for embedding in embeddings) > _MANY_NUMBERS:
            return await self._translator.in_thread(respond)
        return respond()

    async def CancelEmbed(
        self, request: embedding_service_pb2.CancelEmbedRequest, context: CancelContext
    ) -> embedding_service_pb2.CancelEmbedResponse:
        """Stops the caller's requests by id."""
        cancelled = self._running.cancel(call.caller.get(), to_cancelled_ids(request.request_ids))
        return embedding_service_pb2.CancelEmbedResponse(cancelled_ids=cancelled)

    async def _asked(self, engine: Engine, request: Request) -> Asked[EmbeddingRequest]:
        costs = await self._translator.to_embedding_costs(request, engine.model)
        request_id = call.request_id.get()
        shared: list[EmbeddingRequest] = []

        async def translate(index: int, _: Ticket) -> EmbeddingRequest:
            if index == 0:
                shared.append(await self._translator.check_embedding(request, engine.model, request_id))
            return await self._translator.to_embedding_request(request, index, shared[0], engine.model)

        return Asked(costs, translate)
