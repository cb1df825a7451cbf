"""CompletionService: completions of raw prompts, whole or streamed, and their cancellation."""

from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

import grpc

from octet.engine.protocol import Engine
from octet.engine.types import Deltas, GenerationRequest, Service, total
from octet.rpc import call
from octet.rpc.admission.ticket import Ticket
from octet.rpc.answering import Answering, Asked
from octet.rpc.gate import EngineGate
from octet.rpc.running import RunningRequests
from octet.rpc.translator import Translator
from octet.rpc.writing import Writer
from octet.translate.completion import add_event, begin_chunk, to_completion_response
from octet.translate.request import resolve_model, to_cancelled_ids
from octet.translate.response import to_usage
from octet.v1 import completion_service_pb2, completion_service_pb2_grpc

Request = completion_service_pb2.CompletionRequest
# Quoted: the class takes type arguments in its stub only.
CompleteContext: TypeAlias = "grpc.aio.ServicerContext[Request, completion_service_pb2.CompletionResponse]"
StreamContext: TypeAlias = "grpc.aio.ServicerContext[Request, completion_service_pb2.CompletionChunk]"
CancelContext: TypeAlias = (
    "grpc.aio.ServicerContext[completion_service_pb2.CancelCompletionRequest, "
    "completion_service_pb2.CancelCompletionResponse]"
)


class CompletionService(completion_service_pb2_grpc.CompletionServiceServicer):
    """Answers raw prompts with the engine's events.

    Args:
        gate: gives the engine.
        running: the requests that are being answered.
        answering: answers requests.
        translator: translates requests.
        write_timeout_seconds: how long a client may leave a part of a streamed answer untaken.
    """

    def __init__(
        self,
        gate: EngineGate,
        running: RunningRequests,
        answering: Answering,
        translator: Translator,
        write_timeout_seconds: float,
    ) -> None:
        self._gate = gate
        self._running = running
        self._answering = answering
        self._translator = translator
        self._write_timeout_seconds = write_timeout_seconds

    async def Complete(
        self, request: Request, context: CompleteContext
    ) -> completion_service_pb2.CompletionResponse:
        """Answers with all completions at once."""
        create_time = datetime.now(UTC)
        engine = self._gate.engine_for(Service.COMPLETION)
        model = resolve_model(request.model, engine.model)
        asked = await ask_for_completions(self._translator, engine, request)
        events = self._answering.events(engine, asked, context.time_remaining(), asked.progress())
        async with aclosing(events):
            collected = [item async for item in events]
        respond = partial(
            to_completion_response,
            collected,
            prompts=len(request.prompts),
            request_id=call.request_id.get(),
            model=model,
            create_time=create_time,
        )
        if request.sampling.logprobs or request.sampling.HasField("prompt_logprobs"):
            # There may be a million of them.
            return await self._translator.in_thread(respond)
        return respond()

    async def StreamComplete(self, request: Request, context: StreamContext) -> None:
        """Answers as the completions are produced.

        A write returns when the transport has room again. Nothing is read from the engine meanwhile, which
        merges what it generates into one event.
        """
        create_time = datetime.now(UTC)
        engine = self._gate.engine_for(Service.COMPLETION)
        model = resolve_model(request.model, engine.model)
        asked = await ask_for_completions(self._translator, engine, request)
        progress = asked.progress()
        chunk = begin_chunk(request_id=call.request_id.get(), model=model, create_time=create_time)
        events = self._answering.events(engine, asked, context.time_remaining(), progress)
        async with Writer(self._write_timeout_seconds, context) as writer, aclosing(events):
            async for index, event in events:
                add = partial(add_event, chunk, index, event, complete=progress[index].complete)
                if isinstance(event, Deltas) and event.prompt_logprobs:
                    # A long prompt has very many.
                    await self._translator.in_thread(add)
                else:
                    add()
                if all(one.complete for one in progress):
                    chunk.usage.CopyFrom(to_usage(total(one.usage for one in progress)))
                if chunk.deltas or chunk.prompts:
                    await writer.write(chunk)
                    chunk = completion_service_pb2.CompletionChunk()

    async def CancelCompletion(
        self, request: completion_service_pb2.CancelCompletionRequest, context: CancelContext
    ) -> completion_service_pb2.CancelCompletionResponse:
        """Stops the caller's requests by id."""
        cancelled = self._running.cancel(call.caller.get(), to_cancelled_ids(request.request_ids))
        return completion_service_pb2.CancelCompletionResponse(cancelled_ids=cancelled)


async def ask_for_completions(
    translator: Translator, engine: Engine, request: Request
) -> Asked[GenerationRequest]:
    """What the current call asks for, its prompts counted.

    Raises:
        InvalidRequestError: it holds more than it may.
    """
    costs = await translator.to_completion_costs(request, engine.model)
    request_id = call.request_id.get()
    shared: list[GenerationRequest] = []

    async def translate(index: int, ticket: Ticket) -> GenerationRequest:
        if index == 0:
            shared.append(await translator.check_completion(request, engine.model, request_id))
        return await translator.to_completion(request, index, shared[0], engine.model, ticket)

    return Asked(costs, translate)
