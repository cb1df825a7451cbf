"""The blocking client."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import grpc
from typing_extensions import Self, Unpack

from octet.client.answer import Answer
from octet.client.completions import (
    CompletionOptions,
    Completions,
    Embeddings,
    EmbedOptions,
    Prompts,
    completion_request,
    embed_request,
)
from octet.client.connection import (
    CHAT_TIMEOUT,
    DEFAULT_TARGET,
    QUICK_TIMEOUT,
    Tls,
    channel_options,
    metadata,
)
from octet.client.errors import to_octet_error
from octet.client.functions import MAX_ROUNDS, Function, ToolConversation, ToolRun
from octet.client.requests import ChatOptions, Conversation, chat_request
from octet.client.streams import ChatStream, CompletionStream
from octet.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    chat_service_pb2,
    chat_service_pb2_grpc,
    completion_service_pb2_grpc,
    embedding_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)


class Client:
    """A connection to a server, for threads; one is enough for a program.

    Calls that the server refused for want of room, or that found no server, are repeated up to three times
    while nothing of an answer has arrived. Every call has a deadline.

    Args:
        target: HOST:PORT, or another name that gRPC knows, such as "dns:///octet:50051" (all addresses of
            which are used in turn) or "unix:/run/octet.sock".
        api_key: the server's key, if it asks for one.
        tls: how to encrypt; None: not at all.
        timeout: seconds that a chat may take.

    Raises:
        OSError: when a file that `tls` names cannot be read.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        timeout: float = CHAT_TIMEOUT,
    ) -> None:
        options = channel_options(tls)
        self._channel = (
            grpc.insecure_channel(target, options=options)
            if tls is None
            else grpc.secure_channel(target, tls.credentials(), options=options)
        )
        self._chat = chat_service_pb2_grpc.ChatServiceStub(self._channel)
        self._completions = completion_service_pb2_grpc.CompletionServiceStub(self._channel)
        self._embeddings = embedding_service_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._admin = admin_service_pb2_grpc.AdminServiceStub(self._channel)
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

    def chat_with_tools(
        self,
        conversation: Conversation,
        functions: Iterable[Function],
        *,
        max_rounds: int = MAX_ROUNDS,
        strict: bool = False,
        **options: Unpack[ChatOptions],
    ) -> ToolRun:
        """Lets the model call Python functions until it has its answer.

        Args:
            conversation: what is asked.
            functions: what the model may call; `Function` says how they are described to it. What one returns
                goes to the model as JSON, and pictures as pictures. Arguments that do not fit are reported to
                the model, which may try again; what a function raises ends the run.
            max_rounds: how often the model may ask for calls.
            strict: whether the server holds arguments to the functions' types while the model writes them.
            options: `ChatOptions` says what they are. A tool choice holds for the first answer only.

        Raises:
            OctetRpcError: when a call to the server fails.
            ToolRoundsExceededError: when the model never comes to an answer.
        """
        run = ToolConversation(conversation, functions, max_rounds, options, strict=strict)
        while True:
            answer = self.chat(run.turns, **run.options)
            if not run.take(answer):
                return ToolRun(answer, run.turns)
            for call in answer.tool_calls:
                run.note(call, run.call(call))

    def complete(self, prompts: Prompts, **options: Unpack[CompletionOptions]) -> Completions:
        """Gives what follows on one or more raw prompts; `CompletionOptions` says what the options are.

        Args:
            prompts: a text, token ids, what `octet.client.prompt` makes of texts, ids and pictures, or a list
                of these.
            options: how to go on from them.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = completion_request(prompts, options)
        timeout = options.get("timeout", self._timeout)
        return Completions(self._call(self._completions.Complete, request, timeout))

    def stream_complete(self, prompts: Prompts, **options: Unpack[CompletionOptions]) -> CompletionStream:
        """Starts completions and gives them as they are produced; takes what `complete` takes."""
        request = completion_request(prompts, options)
        timeout = options.get("timeout", self._timeout)
        call = self._completions.StreamComplete(request, timeout=timeout, metadata=self._metadata)
        return CompletionStream(call, request)

    def embed(self, texts: Prompts, **options: Unpack[EmbedOptions]) -> Embeddings:
        """Gives the vectors of one or more texts; `EmbedOptions` says what the options are.

        Args:
            texts: a text, token ids, or a list of these.
            options: what the vectors are to be like.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = embed_request(texts, options)
        timeout = options.get("timeout", self._timeout)
        return Embeddings(self._call(self._embeddings.Embed, request, timeout))

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

    def count_tokens(
        self, conversation: Conversation, **options: Unpack[ChatOptions]
    ) -> model_service_pb2.CountTokensResponse:
        """How long the prompt of a chat would be; takes what `chat` takes.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = model_service_pb2.CountTokensRequest(request=chat_request(conversation, options))
        timeout = options.get("timeout", QUICK_TIMEOUT)
        counted: model_service_pb2.CountTokensResponse = self._call(
            self._models.CountTokens, request, timeout
        )
        return counted

    def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        add_special_tokens: bool = True,
        parse_special_tokens: bool | None = None,
    ) -> list[int]:
        """The ids of a text's tokens; no chat template is applied.

        Args:
            text: the text.
            model: a served model's name; default: the server's first.
            add_special_tokens: whether tokens such as the one that begins a sequence are added.
            parse_special_tokens: whether names of special tokens in the text become these tokens; default: as
                in messages, where they are plain text unless the server was told otherwise.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = model_service_pb2.TokenizeRequest(
            model=model,
            text=text,
            add_special_tokens=add_special_tokens,
            parse_special_tokens=parse_special_tokens,
        )
        return list(self._call(self._models.Tokenize, request).token_ids)

    def detokenize(
        self, token_ids: Sequence[int], *, model: str = "", skip_special_tokens: bool = False
    ) -> str:
        """The text of tokens.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = model_service_pb2.DetokenizeRequest(
            model=model, token_ids=token_ids, skip_special_tokens=skip_special_tokens
        )
        text: str = self._call(self._models.Detokenize, request).text
        return text

    def load_adapter(self, name: str, path: str, *, replace: bool = False) -> list[str]:
        """Loads a LoRA adapter, on a server that has AdminService, with a key for that.

        Args:
            name: what requests will call it.
            path: where it lies, below the server's --adapter-root.
            replace: whether it takes the place of another one that has the name.

        Returns:
            The adapters that requests may name now.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = admin_service_pb2.LoadAdapterRequest(name=name, path=path, replace=replace)
        return list(self._call(self._admin.LoadAdapter, request, CHAT_TIMEOUT).adapters)

    def unload_adapter(self, name: str) -> list[str]:
        """Drops a LoRA adapter, likewise; requests that run on it finish.

        Returns:
            The adapters that requests may name now.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = admin_service_pb2.UnloadAdapterRequest(name=name)
        return list(self._call(self._admin.UnloadAdapter, request).adapters)

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
