"""ChatService: chats, whole or streamed, and their cancellation."""

from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

import grpc

from octet.engine.protocol import Engine
from octet.engine.types import GenerationRequest, PromptAccepted, Service
from octet.rpc import call
from octet.rpc.answering import Answering, Asked
from octet.rpc.gate import EngineGate
from octet.rpc.running import RunningRequests
from octet.rpc.translator import Translator
from octet.rpc.writing import Writer
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

    async def Chat(self, request: Request, context: ChatContext) -> chat_service_pb2.ChatResponse:
        """Answers with the whole message at once."""
        create_time = datetime.now(UTC)
        engine = self._gate.engine_for(Service.CHAT)
        model = resolve_model(request.model, engine.model)
        asked = await self._asked(engine, request)
        events = self._answering.events(engine, asked, context.time_remaining(), asked.progress())
        async with aclosing(events):
            collected = [event async for _, event in events]
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
        engine = self._gate.engine_for(Service.CHAT)
        model = resolve_model(request.model, engine.model)
        asked = await self._asked(engine, request)
        [progress] = followed = asked.progress()
        events = self._answering.events(engine, asked, context.time_remaining(), followed)
        async with Writer(self._write_timeout_seconds, context) as writer, aclosing(events):
            async for _, event in events:
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
                    await writer.write(chunk)

    async def CancelChat(
        self, request: chat_service_pb2.CancelChatRequest, context: CancelContext
    ) -> chat_service_pb2.CancelChatResponse:
        """Stops the caller's requests by id."""
        cancelled = self._running.cancel(call.caller.get(), to_cancelled_ids(request.request_ids))
        return chat_service_pb2.CancelChatResponse(cancelled_ids=cancelled)

    async def _asked(self, engine: Engine, request: Request) -> Asked[GenerationRequest]:
        cost = await self._translator.to_cost(request, engine.model)
        request_id = call.request_id.get()
        return Asked(
            [cost],
            lambda _, ticket: self._translator.to_generation_request(
                request, engine.model, request_id, ticket
            ),
        )
