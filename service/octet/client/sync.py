"""The blocking client."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from octet.client.answer import Answer
from octet.client.connection import CHANNEL_OPTIONS, CHAT_TIMEOUT, DEFAULT_TARGET, QUICK_TIMEOUT, metadata
from octet.client.errors import to_octet_error
from octet.client.requests import ChatOptions, Conversation, chat_request
from octet.translate.response import ChunkAccumulator
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc


class ChatStream:
    """An answer that is being produced. Iterate it for text; all iterators continue where another stopped.

    Attributes:
        request_id: the request's id, which `Client.cancel` takes.
    """

    def __init__(self, call: Any, request_id: str) -> None:
        self._call = call
        self._received = ChunkAccumulator()
        self._cancelled = False
        self.request_id = request_id

    def __iter__(self) -> Iterator[str]:
        """The first candidate's text, piece by piece.

        Raises:
            OctetRpcError: when the call fails.
        """
        for delta in self.deltas():
            if delta.text and delta.index == 0:
                yield delta.text

    def deltas(self) -> Iterator[chat_service_pb2.CandidateDelta]:
        """All that is added: text and tool calls of every candidate, and why each ended.

        Raises:
            OctetRpcError: when the call fails; a call that `cancel` ended has not failed.
        """
        try:
            for chunk in self._call:
                self._received.add(chunk)
                yield from chunk.deltas
        except grpc.RpcError as error:
            if not (self._cancelled and error.code() == grpc.StatusCode.CANCELLED):
                raise to_octet_error(error) from None

    def answer(self) -> Answer:
        """The whole answer; reads what is left of it first.

        Raises:
            OctetRpcError: when the call fails.
        """
        for _ in self.deltas():
            pass
        return Answer(self._received.response())

    def cancel(self) -> None:
        """Stops the model's work. What was received remains; iterators end."""
        self._cancelled = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()


class Client:
    """A connection to a server, for threads; one is enough for a program.

    Args:
        target: HOST:PORT.
        api_key: the server's key, if it asks for one.
        timeout: seconds that a chat may take.
    """

    def __init__(
        self, target: str = DEFAULT_TARGET, *, api_key: str | None = None, timeout: float = CHAT_TIMEOUT
    ) -> None:
        self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._chat = chat_service_pb2_grpc.ChatServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._metadata = metadata(api_key)
        self._timeout = timeout

    def chat(self, conversation: Conversation, **options: Unpack[ChatOptions]) -> Answer:
        """Gives the whole answer at once; `ChatOptions` says what the options are.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = chat_request(conversation, options)
        timeout = options.get("timeout", self._timeout)
        return Answer(self._call(self._chat.Chat, request, timeout))

    def stream(self, conversation: Conversation, **options: Unpack[ChatOptions]) -> ChatStream:
        """Starts an answer and gives it as it is produced; `ChatOptions` says what the options are."""
        request = chat_request(conversation, options)
        timeout = options.get("timeout", self._timeout)
        call = self._chat.StreamChat(request, timeout=timeout, metadata=self._metadata)
        return ChatStream(call, request.request_id)

    def cancel(self, *request_ids: str) -> list[str]:
        """Stops requests by id, also those of other connections; returns the ids that were running.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = chat_service_pb2.CancelChatRequest(request_ids=request_ids)
        return list(self._call(self._chat.CancelChat, request).cancelled_ids)

    def list_models(self) -> list[model_service_pb2.Model]:
        """What is served, the default first.

        Raises:
            OctetRpcError: when the call fails.
        """
        return list(self._call(self._models.ListModels, model_service_pb2.ListModelsRequest()).models)

    def get_model(self, name: str) -> model_service_pb2.Model:
        """One model.

        Raises:
            OctetRpcError: when the call fails; with NOT_FOUND when no such model is served.
        """
        request = model_service_pb2.GetModelRequest(name=name)
        model: model_service_pb2.Model = self._call(self._models.GetModel, request).model
        return model

    def close(self) -> None:
        """Ends the connection and every call on it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout: float = QUICK_TIMEOUT) -> Any:
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise to_octet_error(error) from None
