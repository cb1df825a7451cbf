"""A real server on a real port, with a scripted engine behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from octet.config import ServerConfig
from octet.engine.types import Service
from octet.fetch import ImageFetcher
from octet.server.server import Server
from octet.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    completion_service_pb2,
    completion_service_pb2_grpc,
    content_pb2,
    embedding_service_pb2_grpc,
    model_service_pb2_grpc,
    prompt_pb2,
)
from tests.integration.fake_engine import FakeEngine, Script, echo


@dataclass
class Running:
    """A started server, its engine, and a channel to it."""

    server: Server
    engine: FakeEngine
    channel: grpc.aio.Channel

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def chat(self) -> chat_service_pb2_grpc.ChatServiceStub:
        return chat_service_pb2_grpc.ChatServiceStub(self.channel)

    @property
    def completions(self) -> completion_service_pb2_grpc.CompletionServiceStub:
        return completion_service_pb2_grpc.CompletionServiceStub(self.channel)

    @property
    def embeddings(self) -> embedding_service_pb2_grpc.EmbeddingServiceStub:
        return embedding_service_pb2_grpc.EmbeddingServiceStub(self.channel)

    @property
    def models(self) -> model_service_pb2_grpc.ModelServiceStub:
        return model_service_pb2_grpc.ModelServiceStub(self.channel)


Start = Callable[..., Awaitable[Running]]


@asynccontextmanager
async def running_server(
    script: Script = echo,
    *,
    config: ServerConfig | None = None,
    fetcher: ImageFetcher | None = None,
    attach: bool = True,
    services: tuple[Service, ...] = (Service.CHAT, Service.COMPLETION),
) -> AsyncIterator[Running]:
    server = Server(config or ServerConfig(port=0), fetcher=fetcher)
    engine = FakeEngine(script, services=services)
    await server.start()
    try:
        if attach:
            await server.attach(engine)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Running(server, engine, channel)
    finally:
        await server.stop()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts servers that end with the test."""
    async with AsyncExitStack() as stack:

        async def start_one(script: Script = echo, **options: object) -> Running:
            return await stack.enter_async_context(running_server(script, **options))  # type: ignore[arg-type]

        yield start_one


async def rest_of(stream: grpc.aio.UnaryStreamCall[Any, chat_service_pb2.ChatChunk]) -> list[Any]:
    """What a stream, of which something was `read`, still gives."""
    chunks = []
    while (chunk := await stream.read()) is not grpc.aio.EOF:
        chunks.append(chunk)
    return chunks


async def code_of(stream: Any) -> grpc.StatusCode:
    """How a stream ends. Its status comes after its messages, so those are read first."""
    try:
        await rest_of(stream)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return await stream.code()  # type: ignore[no-any-return]


@dataclass
class Details:
    """The google.rpc details of an error."""

    info: error_details_pb2.ErrorInfo
    bad_request: error_details_pb2.BadRequest


def details_of(error: grpc.aio.AioRpcError) -> Details:
    status = rpc_status.from_call(error)
    details = Details(error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest())
    for packed in status.details:
        packed.Unpack(details.info)
        packed.Unpack(details.bad_request)
    return details


def ask(said: str = "one two three", **fields: object) -> chat_service_pb2.ChatRequest:
    """A request of one user turn."""
    turn = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text=said)])
    return chat_service_pb2.ChatRequest(messages=[turn], **fields)  # type: ignore[arg-type]


def prompt(*parts: str | Sequence[int]) -> prompt_pb2.Prompt:
    """A prompt of these texts and token ids."""
    made = prompt_pb2.Prompt()
    for part in parts:
        if isinstance(part, str):
            made.parts.add(text=part)
        else:
            made.parts.add(tokens=prompt_pb2.TokenIds(ids=part))
    return made


def complete(*texts: str, **fields: object) -> completion_service_pb2.CompletionRequest:
    """A request for completions of these texts."""
    prompts = [prompt(text) for text in texts]
    return completion_service_pb2.CompletionRequest(prompts=prompts, **fields)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what nobody tells about."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
