"""ChatService: chats, whole or streamed, and their cancellation."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

import grpc

from octet.engine.protocol import Engine
from octet.engine.types import Deltas, Event, GenerationRequest, PromptAccepted
from octet.rpc import call
from octet.rpc.admission.admission import Admission
from octet.rpc.gate import EngineGate
from octet.rpc.progress import Progress
from octet.rpc.running import CancelledByCallerError, RunningRequests
from octet.rpc.translator import Translator
from octet.rpc.writing import write_within
from octet.telemetry.answers import AnswerMeter
from octet.telemetry.metrics import Metrics
from octet.telemetry.tracing import Tracing
from octet.telemetry.transcript import Transcript
from octet.translate.request import resolve_model, to_cancelled_ids
from octet.translate.response import add_usage, delta_chunk, first_chunk, to_chat_response
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc

Request = chat_service_pb2.ChatRequest
# Quoted: the class takes type arguments in its stub only.
ChatContext: TypeAlias = "grpc.aio.ServicerContext[Request, chat_service_pb2.ChatResponse]"
StreamContext: TypeAlias = "grpc.aio.ServicerContext[Request, chat_service_pb2.ChatChunk]"
CancelContext: TypeAlias = (
    "grpc.aio.ServicerContext[chat_service_pb2.CancelChatRequest, chat_service_pb2.CancelChatResponse]"
)


class ChatService(chat_service_pb2_grpc.ChatServiceServicer):
    """Answers chats with the engine's events.

    Args:
        gate: gives the engine.
        running: the requests that are being answered.
        admission: lets requests in.
        translator: translates requests.
        write_timeout_seconds: how long a client may leave a part of a streamed answer untaken.
        metrics: count what the answers take.
        tracing: makes spans of an answer's parts.
        log_prompts: how many characters of each prompt and answer are logged.
    """

    def __init__(
        self,
        gate: EngineGate,
        running: RunningRequests,
        admission: Admission,
        translator: Translator,
        write_timeout_seconds: float,
        metrics: Metrics,
        tracing: Tracing,
        log_prompts: int,
    ) -> None:
        self._gate = gate
        self._running = running
        self._admission = admission
        self._translator = translator
        self._write_timeout_seconds = write_timeout_seconds
        self._metrics = metrics
        self._tracing = tracing
        self._log_prompts = log_prompts

    async def Chat(self, request: Request, context: ChatContext) -> chat_service_pb2.ChatResponse:
        """Answers with the whole message at once."""
        create_time = datetime.now(UTC)
        engine = self._gate.engine()
        model = resolve_model(request.model, engine.model)
        async with aclosing(self._events(engine, request, context.time_remaining(), Progress())) as events:
            collected = [event async for event in events]
        respond = partial(
            to_chat_response,
            collected,
            request_id=call.request_id.get(),
            model=model,
            create_time=create_time,
        )
        if request.sampling.logprobs or request.sampling.HasField("prompt_logprobs"):
            # There may be a million of them.
            return await self._translator.in_thread(respond)
        return respond()

    async def StreamChat(self, request: Request, context: StreamContext) -> None:
        """Answers as the answer is produced.

        A write returns when the transport has room again. Nothing is read from the engine meanwhile, which
        merges what it generates into one event.
        """
        create_time = datetime.now(UTC)
        engine = self._gate.engine()
        model = resolve_model(request.model, engine.model)
        progress = Progress()
        async with aclosing(self._events(engine, request, context.time_remaining(), progress)) as events:
            async for event in events:
                if isinstance(event, PromptAccepted):
                    chunk = first_chunk(
                        event, request_id=call.request_id.get(), model=model, create_time=create_time
                    )
                else:
                    # A long prompt has very many log probabilities.
                    chunk = (
                        await self._translator.in_thread(delta_chunk, [event])
                        if event.prompt_logprobs
                        else delta_chunk([event])
                    )
                    if progress.complete:
                        add_usage(chunk, event.usage)
                if chunk.deltas or chunk.prompt_logprobs or chunk.HasField("usage"):
                    await write_within(self._write_timeout_seconds, context, chunk)

    async def CancelChat(
        self, request: chat_service_pb2.CancelChatRequest, context: CancelContext
    ) -> chat_service_pb2.CancelChatResponse:
        """Stops the caller's requests by id."""
        cancelled = self._running.cancel(call.caller.get(), to_cancelled_ids(request))
        return chat_service_pb2.CancelChatResponse(cancelled_ids=cancelled)

    async def _events(
        self, engine: Engine, request: Request, time_left: float | None, progress: Progress
    ) -> AsyncGenerator[Event, None]:
        """The engine's events for a request, made complete here if CancelChat ends it early."""
        request_id, caller = call.request_id.get(), call.caller.get()
        cost = await self._translator.to_cost(request, engine.model)
        progress.expect(cost.sequences)
        with self._running.register(caller, request_id, time_left) as running:
            try:
                with self._admission.enter(
                    caller,
                    cost,
                    time_left=time_left,
                    caller_limit=call.caller_limits.get().max_concurrent_requests,
                ) as ticket:
                    with self._tracing.part("queue"):
                        await running.wait_for(ticket.turn)
                    await call.accept()
                    with self._tracing.part("translate"):
                        translated = await running.wait_for(
                            self._translator.to_generation_request,
                            request,
                            engine.model,
                            request_id,
                            ticket,
                        )
                        generating = self._generate(engine, replace(translated, rank=ticket.rank))
                        # The engine alone has the pictures now, and lets go of them when it can.
                        del translated
                    self._admission.images_decoded(ticket)
                    async with aclosing(generating) as events:
                        while (event := await running.wait_for(_next_event, events)) is not None:
                            if isinstance(event, PromptAccepted):
                                # The engine has made of the pictures what it needs.
                                self._admission.hold_image_memory(ticket, 0)
                            if isinstance(event, Deltas):
                                self._admission.first_token(ticket)
                            progress.note(event)
                            yield event
            except CancelledByCallerError:
                await call.accept()
                for event in progress.cancel():
                    yield event

    async def _generate(self, engine: Engine, generation: GenerationRequest) -> AsyncGenerator[Event, None]:
        """The engine's events, measured."""
        meter = AnswerMeter(
            self._metrics, call.caller.get(), call.arrived.get(), candidates=generation.sampling.n
        )
        call.answer.set(meter.summary)
        transcript = Transcript(generation, self._log_prompts) if self._log_prompts else None
        try:
            with self._tracing.part("generate") as span:
                answering = engine.generate(replace(generation, trace_headers=self._tracing.headers(span)))
                del generation
                async with aclosing(answering) as events:
                    async for event in events:
                        meter.note(event)
                        if transcript is not None:
                            transcript.note(event)
                        yield event
        finally:
            meter.report()
            if transcript is not None:
                transcript.log()


async def _next_event(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)
