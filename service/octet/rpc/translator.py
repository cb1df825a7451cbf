"""Translation that may take long, in threads."""

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from octet.engine.types import GenerationRequest, ModelInfo
from octet.rpc.decoders import Decoders
from octet.translate.image_memory import image_memory
from octet.translate.media import Decode, ImageLimits
from octet.translate.messages import image_fields, uris_to_fetch
from octet.translate.request import is_costly, to_generation_request
from octet.v1 import chat_service_pb2

if TYPE_CHECKING:
    from octet.fetch import ImageFetcher

P = ParamSpec("P")
T = TypeVar("T")


class Translator:
    """Translates without keeping the event loop from other calls.

    Args:
        limits: limits on pictures.
        decoders: where requests with pictures are translated.
        threads: where everything else is done that is costly, so that pictures do not hold it up.
        fetcher: fetches pictures that are elsewhere; None leaves that to nobody.
    """

    def __init__(
        self, limits: ImageLimits, decoders: Decoders, threads: Executor, fetcher: "ImageFetcher | None"
    ) -> None:
        self.limits = limits
        self._decoders = decoders
        self._threads = threads
        self._fetcher = fetcher

    async def to_generation_request(
        self,
        request: chat_service_pb2.ChatRequest,
        model: ModelInfo,
        request_id: str,
        caller: str,
        hold_memory: Callable[[int], None],
    ) -> GenerationRequest:
        """Checks and converts a request; see `octet.translate.request.to_generation_request`.

        Args:
            request: what the client sent.
            model: what is served.
            request_id: the request's id.
            caller: whose it is.
            hold_memory: is told how many bytes of what it was given for pictures the request still needs.
        """
        fetched: Mapping[str, bytes] = MappingProxyType({})
        if self._fetcher is not None and (uris := uris_to_fetch(request.messages, model)):
            fetched = await self._fetcher.fetch_all(uris)
            hold_memory(image_memory(request, model, self.limits, fetched))
        translate = partial(
            to_generation_request,
            request,
            model=model,
            limits=self.limits,
            request_id=request_id,
            fetched=fetched,
        )
        if image_fields(request.messages):
            generation = await self.with_decoder(caller, lambda decode: translate(decode=decode))
            hold_memory(generation.image_bytes)
            return generation
        return await self.in_thread(translate) if is_costly(request) else translate()

    async def with_decoder(self, caller: str, function: Callable[[Decode], T]) -> T:
        """Calls a function that decodes pictures of a caller's; see `octet.rpc.decoders.Decoders.run`."""
        return await self._decoders.run(caller, function)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in one of the threads, in the context of this call."""
        call = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
