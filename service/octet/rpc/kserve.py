"""GRPCInferenceService: KServe's protocol, and Triton's, answered with completions of raw prompts."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import TypeAlias

from google.rpc import code_pb2, status_pb2

from octet.engine.protocol import Engine
from octet.engine.types import Service
from octet.errors import (
    ModelNotFoundError,
    OctetError,
    SlowReaderError,
    UnauthenticatedError,
    UnavailableError,
)
from octet.kserve import grpc_service_pb2, grpc_service_pb2_grpc
from octet.rpc import call
from octet.rpc.answering import Answering
from octet.rpc.completion import ask_for_completions
from octet.rpc.gate import EngineGate
from octet.rpc.translator import Translator
from octet.rpc.writing import Context, Writer
from octet.translate.kserve.answer import Answer
from octet.translate.kserve.model import to_model_config, to_model_metadata, to_server_metadata
from octet.translate.kserve.request import Inference, find_model, to_inference

MAX_SIDE_BY_SIDE = 64
"""Requests of one stream that are looked after at the same time; the next one is read when one has ended."""

_GRPC_ERRORS = ("triton_grpc_error", "true")

Request: TypeAlias = grpc_service_pb2.ModelInferRequest
Response: TypeAlias = grpc_service_pb2.ModelInferResponse


class InferenceService(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers KServe's and Triton's clients under the rules that hold for every other call.

    Args:
        gate: gives the engine.
        answering: answers requests.
        translator: translates requests.
        write_timeout_seconds: how long a client may leave a part of a streamed answer untaken.
        to_status: gives the status of an error.
    """

    def __init__(
        self,
        gate: EngineGate,
        answering: Answering,
        translator: Translator,
        write_timeout_seconds: float,
        to_status: Callable[[OctetError], status_pb2.Status],
    ) -> None:
        self._gate = gate
        self._answering = answering
        self._translator = translator
        self._write_timeout_seconds = write_timeout_seconds
        self._to_status = to_status
        self._leaving = False

    def leave(self) -> None:
        """Says from now on that the server is not ready, whether or not the gate is open."""
        self._leaving = True

    async def ServerLive(
        self, request: grpc_service_pb2.ServerLiveRequest, context: Context
    ) -> grpc_service_pb2.ServerLiveResponse:
        """Says that the server is there."""
        return grpc_service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: grpc_service_pb2.ServerReadyRequest, context: Context
    ) -> grpc_service_pb2.ServerReadyResponse:
        """Says whether requests are taken."""
        return grpc_service_pb2.ServerReadyResponse(ready=self._ready_engine() is not None)

    async def ModelReady(
        self, request: grpc_service_pb2.ModelReadyRequest, context: Context
    ) -> grpc_service_pb2.ModelReadyResponse:
        """Says whether requests for a model are taken."""
        engine = self._ready_engine()
        if engine is None or Service.COMPLETION not in engine.model.services:
            return grpc_service_pb2.ModelReadyResponse(ready=False)
        try:
            find_model(request.name, request.version, engine.model)
        except ModelNotFoundError:
            return grpc_service_pb2.ModelReadyResponse(ready=False)
        return grpc_service_pb2.ModelReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: grpc_service_pb2.ServerMetadataRequest, context: Context
    ) -> grpc_service_pb2.ServerMetadataResponse:
        """Says what the server is."""
        return to_server_metadata()

    async def ModelMetadata(
        self, request: grpc_service_pb2.ModelMetadataRequest, context: Context
    ) -> grpc_service_pb2.ModelMetadataResponse:
        """Lists a model's tensors."""
        model = self._gate.engine_for(Service.COMPLETION).model
        return to_model_metadata(find_model(request.name, request.version, model), model)

    async def ModelConfig(
        self, request: grpc_service_pb2.ModelConfigRequest, context: Context
    ) -> grpc_service_pb2.ModelConfigResponse:
        """Gives a model's configuration."""
        model = self._gate.engine_for(Service.COMPLETION).model
        config = to_model_config(find_model(request.name, request.version, model), model)
        return grpc_service_pb2.ModelConfigResponse(config=config)

    async def ModelInfer(self, request: Request, context: Context) -> Response:
        """Answers when all of it is there."""
        async with aclosing(self.responses(request, context.time_remaining(), streaming=False)) as responses:
            return await anext(responses)

    async def ModelStreamInfer(self, requests: AsyncIterator[Request], context: Context) -> None:
        """Answers requests side by side, until the client sends no more and all have ended."""
        self._gate.engine_for(Service.COMPLETION)
        await call.accept()
        ended_by_status = _GRPC_ERRORS in (context.invocation_metadata() or ())
        async with Writer(self._write_timeout_seconds, context) as writer:
            await _Stream(self, context, writer, ended_by_status=ended_by_status).answer(requests)

    def failure(self, request_id: str, error: OctetError) -> grpc_service_pb2.ModelStreamInferResponse:
        """What tells a client that its request `request_id` went wrong, in a stream that goes on."""
        status = self._to_status(error)
        return grpc_service_pb2.ModelStreamInferResponse(
            error_message=f"{code_pb2.Code.Name(status.code)}: {status.message}",
            infer_response=Response(id=request_id),
        )

    async def responses(
        self, request: Request, time_left: float | None, *, streaming: bool
    ) -> AsyncGenerator[Response, None]:
        """The responses to a request, at least one: several where it wants the text as it is produced.

        Args:
            request: what the client sent.
            time_left: seconds until the call's deadline; None for no deadline.
            streaming: whether the call can have several.
        """
        engine = self._gate.engine_for(Service.COMPLETION)
        inference: Inference = await self._translator.in_thread_if_large(
            lambda: to_inference(request, engine.model, streaming=streaming)
        )
        if inference.timeout_seconds is not None:
            left = inference.timeout_seconds
            time_left = left if time_left is None else min(left, time_left)
        answer = Answer(inference)
        with inference.own_paths():
            asked = await ask_for_completions(self._translator, engine, inference.completion)
            events = self._answering.events(engine, asked, time_left, asked.progress())
            async with aclosing(events):
                async for _, event in events:
                    answer.add(event)
                    if inference.streams and answer.adds:
                        yield answer.response(in_stream=True)
        if not inference.streams:
            respond = partial(answer.response, in_stream=streaming)
            # There may be a million log probabilities.
            yield await self._translator.in_thread(respond) if inference.gives_logprobs else respond()

    def _ready_engine(self) -> Engine | None:
        try:
            engine = self._gate.engine()
        except UnavailableError:
            return None
        return None if self._leaving else engine


class _Stream:
    """One call of ModelStreamInfer.

    Args:
        service: answers its requests.
        context: the call.
        writer: writes to the call's client.
        ended_by_status: whether the first request that goes wrong ends the call with its status.
    """

    def __init__(
        self, service: InferenceService, context: Context, writer: Writer, *, ended_by_status: bool
    ) -> None:
        self._service = service
        self._context = context
        self._writer = writer
        self._ended_by_status = ended_by_status
        self._room = asyncio.Semaphore(MAX_SIDE_BY_SIDE)
        self._writing = asyncio.Lock()

    async def answer(self, requests: AsyncIterator[Request]) -> None:
        """Answers the requests, each in a task of its own.

        Raises:
            OctetError: what ends the call as a whole.
        """
        call_id = call.request_id.get()
        refused: UnauthenticatedError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in count():
                    await self._room.acquire()
                    try:
                        request = await anext(requests, None)
                    except UnauthenticatedError as error:
                        # What the key has let in goes on, as calls of its own would.
                        refused = error
                        break
                    if request is None:
                        break
                    tasks.create_task(self._answer_one(request, f"{call_id}/{number}"))
        except BaseExceptionGroup as group:
            raise _first(group) from None
        if refused is not None:
            raise refused

    async def _answer_one(self, request: Request, request_id: str) -> None:
        # The task has variables of its own.
        call.request_id.set(request_id)
        call.arrived.set(time.monotonic())
        name = request.id
        responses = self._service.responses(request, self._context.time_remaining(), streaming=True)
        try:
            async with aclosing(responses):
                async for response in responses:
                    await self._write(grpc_service_pb2.ModelStreamInferResponse(infer_response=response))
        except SlowReaderError:
            raise
        except OctetError as error:
            if self._ended_by_status:
                raise
            await self._write(self._service.failure(name, error))
        finally:
            self._room.release()

    async def _write(self, message: grpc_service_pb2.ModelStreamInferResponse) -> None:
        async with self._writing:
            await self._writer.write(message)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first that went wrong of several things at once."""
    error: BaseException = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
