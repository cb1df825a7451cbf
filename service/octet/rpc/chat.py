"""ChatService: chats, whole or streamed, and their cancellation."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

import grpc

from octet.engine.protocol import Engine
from octet.engine.types import Event, GenerationRequest, ModelInfo, PromptAccepted
from octet.rpc import call
from octet.rpc.gate import EngineGate
from octet.rpc.progress import Progress
from octet.rpc.running import CancelledByCallerError, RunningRequests
from octet.translate.media import ImageLimits
from octet.translate.request import is_costly, resolve_model, to_cancelled_ids, to_generation_request
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
        limits: limits on pictures.
        translators: threads in which costly requests, such as those with pictures, are translated.
    """

    def __init__(
        self, gate: EngineGate, running: RunningRequests, limits: ImageLimits, translators: Executor
    ) -> None:
        self._gate = gate
        self._running = running
        self._limits = limits
        self._translators = translators

    async def Chat(self, request: Request, context: ChatContext) -> chat_service_pb2.ChatResponse:
        """Answers with the whole message at once."""
        create_time = datetime.now(UTC)
        engine = self._gate.engine()
        model = resolve_model(request.model, engine.model)
        async with aclosing(self._events(engine, request, context.time_remaining(), Progress())) as events:
            collected = [event async for event in events]
        return to_chat_response(
            collected, request_id=call.request_id.get(), model=model, create_time=create_time
        )

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
                    chunk = delta_chunk([event])
                    if progress.complete:
                        add_usage(chunk, event.usage)
                if chunk.deltas or chunk.HasField("usage"):
                    await context.write(chunk)

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
        request_id = call.request_id.get()
        with self._running.register(call.caller.get(), request_id, time_left) as running:
            try:
                generation = await running.wait_for(self._translate, request, engine.model, request_id)
                progress.expect(generation.sampling.n)
                async with aclosing(engine.generate(generation)) as events:
                    while (event := await running.wait_for(_next_event, events)) is not None:
                        progress.note(event)
                        yield event
            except CancelledByCallerError:
                for event in progress.cancel():
                    yield event

    async def _translate(self, request: Request, model: ModelInfo, request_id: str) -> GenerationRequest:
        translate = partial(
            to_generation_request, request, model=model, limits=self._limits, request_id=request_id
        )
        if not is_costly(request):
            return translate()
        in_context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._translators, in_context.run, translate)


async def _next_event(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)
