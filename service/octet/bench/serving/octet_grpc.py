"""An Octet server: streamed chats over gRPC."""

from collections.abc import AsyncGenerator
from itertools import cycle
from typing import Any

import grpc

from octet.bench.serving import content
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.target import CUT_OFF, HIDDEN, SHOWN, Failure, Form, Piece, Usage
from octet.client.connection import Tls, channel_options, metadata
from octet.client.requests import ChatOptions, chat_request, user
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc


def channels(target: str, tls: Tls | None, connections: int) -> list[grpc.aio.Channel]:
    """As many connections of their own, which repeat nothing: a failure is to be seen.

    Raises:
        OSError: a file of `tls` cannot be read.
    """
    options = [
        *channel_options(tls),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if tls is None:
        return [grpc.aio.insecure_channel(target, options=options) for _ in range(connections)]
    credentials = tls.credentials()
    return [grpc.aio.secure_channel(target, credentials, options=options) for _ in range(connections)]


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """What gRPC raised, as a failure."""
    return Failure(error.code().name, error.details() or "")


class OctetTarget:
    """An Octet server.

    Args:
        target: HOST:PORT.
        api_key: the server's key.
        tls: how to encrypt; None for plain text.
        model: a served model's name; empty for the server's first.
        timeout: seconds until a request is given up.
        connections: that requests take turns over.
    """

    kinds = frozenset(Kind)
    takes_tokens = False

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        model: str = "",
        timeout: float,
        connections: int = 1,
    ) -> None:
        self.title = f"Octet at {target}"
        self._channels = channels(target, tls, connections)
        self._stubs = cycle([chat_service_pb2_grpc.ChatServiceStub(channel) for channel in self._channels])
        self._metadata = metadata(api_key)
        self._model = model
        self._timeout = timeout

    async def open(self) -> None:
        """There is nothing to find out."""

    def prepare(self, order: Order, form: Form) -> chat_service_pb2.ChatRequest:
        """The request for an order."""
        text, pictures = form.text_and_pictures(order)
        options: ChatOptions = {
            "model": self._model,
            "max_tokens": order.answer_tokens,
            "temperature": form.temperature,
        }
        if order.kind is Kind.TOOLS:
            options |= {"tools": [content.TOOL], "tool_choice": "required"}
        elif not form.may_end:
            options["ignore_eos"] = True
        return chat_request(user(text, pictures), options)

    async def stream(self, request: chat_service_pb2.ChatRequest) -> AsyncGenerator[Piece | Usage, None]:
        """Sends a request, and gives what comes."""
        stub: Any = next(self._stubs)
        call = stub.StreamChat(request, timeout=self._timeout, metadata=self._metadata)
        prompt_tokens = answer_tokens = 0
        reason = chat_service_pb2.FINISH_REASON_UNSPECIFIED
        try:
            while (chunk := await call.read()) is not grpc.aio.EOF:
                shown = False
                for delta in chunk.deltas:
                    shown = shown or bool(delta.text or delta.tool_calls or delta.reasoning)
                    reason = delta.finish_reason or reason
                counted = chunk.usage.completion_tokens
                prompt_tokens = chunk.usage.prompt_tokens or prompt_tokens
                if counted > answer_tokens or shown:
                    answer_tokens = max(counted, answer_tokens)
                    yield SHOWN if shown else HIDDEN
        except grpc.aio.AioRpcError as error:
            raise failure_of(error) from None
        finally:
            call.cancel()
        if reason == chat_service_pb2.FINISH_REASON_UNSPECIFIED:
            raise Failure(CUT_OFF, "the stream ended without a reason")
        if reason == chat_service_pb2.FINISH_REASON_CANCELLED:
            raise Failure("CANCELLED", "somebody cancelled the request")
        yield Usage(prompt_tokens, answer_tokens)

    async def close(self) -> None:
        """Ends every connection."""
        for channel in self._channels:
            await channel.close()
