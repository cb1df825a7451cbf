"""The client for asyncio."""

from collections.abc import Iterable, Sequence
from inspect import isawaitable
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
from octet.client.streams import AsyncChatStream, AsyncCompletionStream
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


class AsyncClient:
    """`octet.client.Client` for asyncio; the arguments are the same."""

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
            grpc.aio.insecure_channel(target, options=options)
            if tls is None
            else grpc.aio.secure_channel(target, tls.credentials(), options=options)
        )
        self._chat = chat_service_pb2_grpc.ChatServiceStub(self._channel)
        self._completions = completion_service_pb2_grpc.CompletionServiceStub(self._channel)
        self._embeddings = embedding_service_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._admin = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        self._metadata = metadata(api_key)
        self._timeout = timeout

    async def chat(self, conversation: Conversation, **options: Unpack[ChatOptions]) -> Answer:
        """Gives the whole answer at once; `ChatOptions` says what the options are.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = chat_request(conversation, options)
        timeout = options.get("timeout", self._timeout)
        return Answer(await self._call(self._chat.Chat, request, timeout))

    def stream(self, conversation: Conversation, **options: Unpack[ChatOptions]) -> AsyncChatStream:
        """Starts an answer and gives it as it is produced; `ChatOptions` says what the options are."""
        request = chat_request(conversation, options)
        timeout = options.get("timeout", self._timeout)
        call = self._chat.StreamChat(request, timeout=timeout, metadata=self._metadata)
        return AsyncChatStream(call, request.request_id)

    async def chat_with_tools(
        self,
        conversation: Conversation,
        functions: Iterable[Function],
        *,
        max_rounds: int = MAX_ROUNDS,
        strict: bool = False,
        **options: Unpack[ChatOptions],
    ) -> ToolRun:
        """`octet.client.Client.chat_with_tools`; functions may be asynchronous, and are called one by one."""
        run = ToolConversation(conversation, functions, max_rounds, options, strict=strict)
        while True:
            answer = await self.chat(run.turns, **run.options)
            if not run.take(answer):
                return ToolRun(answer, run.turns)
            for call in answer.tool_calls:
                result = run.call(call)
                run.note(call, await result if isawaitable(result) else result)

    async def complete(self, prompts: Prompts, **options: Unpack[CompletionOptions]) -> Completions:
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
        return Completions(await self._call(self._completions.Complete, request, timeout))

    def stream_complete(
        self, prompts: Prompts, **options: Unpack[CompletionOptions]
    ) -> AsyncCompletionStream:
        """Starts completions and gives them as they are produced; takes what `complete` takes."""
        request = completion_request(prompts, options)
        timeout = options.get("timeout", self._timeout)
        call = self._completions.StreamComplete(request, timeout=timeout, metadata=self._metadata)
        return AsyncCompletionStream(call, request)

    async def embed(self, texts: Prompts, **options: Unpack[EmbedOptions]) -> Embeddings:
        """Gives the vectors of one or more texts; `EmbedOptions` says what the options are.

        Args:
            texts: a text, token ids, or a list of these.
            options: what the vectors are to be like.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = embed_request(texts, options)
        timeout = options.get("timeout", self._timeout)
        return Embeddings(await self._call(self._embeddings.Embed, request, timeout))

    async def cancel(self, *request_ids: str) -> list[str]:
        """Stops requests by id, also those of other connections; returns the ids that were running.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = chat_service_pb2.CancelChatRequest(request_ids=request_ids)
        return list((await self._call(self._chat.CancelChat, request)).cancelled_ids)

    async def list_models(self) -> list[model_service_pb2.Model]:
        """What is served, the default first.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = model_service_pb2.ListModelsRequest()
        return list((await self._call(self._models.ListModels, request)).models)

    async def get_model(self, name: str) -> model_service_pb2.Model:
        """One model.

        Raises:
            OctetRpcError: when the call fails; with NOT_FOUND when no such model is served.
        """
        request = model_service_pb2.GetModelRequest(name=name)
        model: model_service_pb2.Model = (await self._call(self._models.GetModel, request)).model
        return model

    async def count_tokens(
        self, conversation: Conversation, **options: Unpack[ChatOptions]
    ) -> model_service_pb2.CountTokensResponse:
        """How long the prompt of a chat would be; takes what `chat` takes.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = model_service_pb2.CountTokensRequest(request=chat_request(conversation, options))
        timeout = options.get("timeout", QUICK_TIMEOUT)
        counted: model_service_pb2.CountTokensResponse = await self._call(
            self._models.CountTokens, request, timeout
        )
        return counted

    async def tokenize(
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
        return list((await self._call(self._models.Tokenize, request)).token_ids)

    async def detokenize(
        self, token_ids: Sequence[int], *, model: str = "", skip_special_tokens: bool = False
    ) -> str:
        """The text of tokens.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = model_service_pb2.DetokenizeRequest(
            model=model, token_ids=token_ids, skip_special_tokens=skip_special_tokens
        )
        text: str = (await self._call(self._models.Detokenize, request)).text
        return text

    async def load_adapter(self, name: str, path: str, *, replace: bool = False) -> list[str]:
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
        return list((await self._call(self._admin.LoadAdapter, request, CHAT_TIMEOUT)).adapters)

    async def unload_adapter(self, name: str) -> list[str]:
        """Drops a LoRA adapter, likewise; requests that run on it finish.

        Returns:
            The adapters that requests may name now.

        Raises:
            OctetRpcError: when the call fails.
        """
        request = admin_service_pb2.UnloadAdapterRequest(name=name)
        return list((await self._call(self._admin.UnloadAdapter, request)).adapters)

    async def close(self) -> None:
        """Ends the connection and every call on it."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: Any, request: Any, timeout: float = QUICK_TIMEOUT) -> Any:
        try:
            return await method(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise to_octet_error(error) from None
