"""Translation that may take long, in threads."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from PIL import Image

from octet.engine.types import EmbeddingRequest, GenerationRequest, ModelInfo
from octet.pictures.decode import DecodeError
from octet.pictures.plan import Plan
from octet.rpc import call
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost, estimate, estimate_input, estimate_prompt
from octet.rpc.admission.ticket import Ticket
from octet.rpc.decoders import Decoders
from octet.rpc.fair_threads import FairThreads
from octet.translate.completion import check_completion, check_completion_counts, to_completion
from octet.translate.embedding import check_embedding, check_input_counts, to_embedding_request
from octet.translate.image_memory import image_memory
from octet.translate.media import Decode, ImageLimits
from octet.translate.messages import pictures_of
from octet.translate.pictures import Pictures, uris_of
from octet.translate.prompts import pictures_of_prompt
from octet.translate.request import is_costly, to_generation_request
from octet.translate.request_limits import check_counts, limits_of
from octet.translate.wire import SMALL_BYTES
from octet.v1 import chat_service_pb2, completion_service_pb2, embedding_service_pb2

if TYPE_CHECKING:
    from octet.fetch import ImageFetcher

P = ParamSpec("P")
T = TypeVar("T")


class Translator:
    """Translates without keeping the event loop from other calls.

    Args:
        limits: limits on pictures.
        admission: gives requests the memory that their pictures take.
        decoders: where requests with pictures are translated.
        threads: where everything else is done that is costly, so that pictures do not hold it up, nor callers
            each other.
        fetcher: fetches pictures that are elsewhere; None leaves that to nobody.
    """

    def __init__(
        self,
        limits: ImageLimits,
        admission: Admission,
        decoders: Decoders,
        threads: FairThreads,
        fetcher: "ImageFetcher | None",
    ) -> None:
        self.limits = limits
        self._admission = admission
        self._decoders = decoders
        self._threads = threads
        self._fetcher = fetcher

    async def to_generation_request(
        self,
        request: chat_service_pb2.ChatRequest,
        model: ModelInfo,
        request_id: str,
        ticket: Ticket,
    ) -> GenerationRequest:
        """Checks and converts a request; see `octet.translate.request.to_generation_request`.

        Args:
            request: what the client sent.
            model: what is served.
            request_id: the request's id.
            ticket: its place, which has the memory that its pictures take.
        """
        pictures = pictures_of(request.messages)
        fetched = await self._fetch(pictures, request.image_options, model, ticket)
        translate = partial(
            to_generation_request,
            request,
            model=model,
            limits=self.limits,
            request_id=request_id,
            fetched=fetched,
        )
        if pictures:
            return await self._with_pictures(translate, ticket)
        costly = is_costly(request, call.request_bytes.get())
        return await self.in_thread(translate) if costly else translate()

    async def to_cost(self, request: chat_service_pb2.ChatRequest, model: ModelInfo) -> Cost:
        """What answering a request takes, once it is known to hold no more than it may.

        Raises:
            InvalidRequestError: it holds more, or its pictures take more memory than they may.
        """
        check_counts(request, limits_of(model))
        return await self.in_thread_if_large(self._cost, request, model)

    async def check_completion(
        self, request: completion_service_pb2.CompletionRequest, model: ModelInfo, request_id: str
    ) -> GenerationRequest:
        """Checks what can be told at once; see `octet.translate.completion.check_completion`."""
        check = partial(
            check_completion,
            request,
            model=model,
            limits=self.limits,
            fetches=self._fetcher is not None,
            request_id=request_id,
        )
        costly = is_costly(request, call.request_bytes.get())
        return await self.in_thread(check) if costly else check()

    async def to_completion(
        self,
        request: completion_service_pb2.CompletionRequest,
        index: int,
        shared: GenerationRequest,
        model: ModelInfo,
        ticket: Ticket,
    ) -> GenerationRequest:
        """Converts the prompt at a place; see `octet.translate.completion.to_completion`."""
        pictures = pictures_of_prompt(request.prompts[index], f"prompts[{index}]")
        fetched = await self._fetch(pictures, request.image_options, model, ticket)
        translate = partial(
            to_completion, request, index, shared, model=model, limits=self.limits, fetched=fetched
        )
        if pictures:
            return await self._with_pictures(translate, ticket)
        return await self.in_thread_if_large(translate)

    async def to_completion_costs(
        self, request: completion_service_pb2.CompletionRequest, model: ModelInfo
    ) -> list[Cost]:
        """What answering each prompt takes, once the request is known to hold no more than it may.

        Raises:
            InvalidRequestError: it holds more, or the pictures of a prompt take more memory than they may.
        """
        check_completion_counts(request, limits_of(model))
        return await self.in_thread_if_large(self._completion_costs, request, model)

    async def check_embedding(
        self, request: embedding_service_pb2.EmbedRequest, model: ModelInfo, request_id: str
    ) -> EmbeddingRequest:
        """Checks a request; see `octet.translate.embedding.check_embedding`."""
        return await self.in_thread_if_large(
            partial(check_embedding, request, model=model, request_id=request_id)
        )

    async def to_embedding_request(
        self,
        request: embedding_service_pb2.EmbedRequest,
        index: int,
        shared: EmbeddingRequest,
        model: ModelInfo,
    ) -> EmbeddingRequest:
        """Converts the input at a place; see `octet.translate.embedding.to_embedding_request`."""
        return await self.in_thread_if_large(to_embedding_request, request, index, shared, model)

    async def to_embedding_costs(
        self, request: embedding_service_pb2.EmbedRequest, model: ModelInfo
    ) -> list[Cost]:
        """What each input takes, once the request is known to hold no more than it may.

        Raises:
            InvalidRequestError: it holds more.
        """
        check_input_counts(request, limits_of(model))
        return await self.in_thread_if_large(
            lambda: [estimate_input(prompt, request, model) for prompt in request.inputs]
        )

    async def _fetch(
        self, pictures: Pictures, options: chat_service_pb2.ImageOptions, model: ModelInfo, ticket: Ticket
    ) -> Mapping[str, bytes]:
        """The files of a prompt's pictures that are elsewhere; takes the memory that all of them need."""
        if self._fetcher is None or not (uris := uris_of(pictures, model)):
            return MappingProxyType({})
        fetched = await self._fetcher.fetch_all(uris)
        needed = image_memory(pictures, options, model, self.limits, fetched)
        await self._admission.take_image_memory(ticket, needed)
        return fetched

    async def _with_pictures(
        self, translate: Callable[..., GenerationRequest], ticket: Ticket
    ) -> GenerationRequest:
        generation = await self.with_decoder(ticket, lambda decode: translate(decode=decode))
        self._admission.hold_image_memory(ticket, generation.image_bytes)
        return generation

    def _cost(self, request: chat_service_pb2.ChatRequest, model: ModelInfo) -> Cost:
        pictures = pictures_of(request.messages)
        return estimate(request, model, image_memory(pictures, request.image_options, model, self.limits))

    def _completion_costs(
        self, request: completion_service_pb2.CompletionRequest, model: ModelInfo
    ) -> list[Cost]:
        costs = []
        for i, prompt in enumerate(request.prompts):
            pictures = pictures_of_prompt(prompt, f"prompts[{i}]")
            needed = image_memory(pictures, request.image_options, model, self.limits)
            costs.append(estimate_prompt(prompt, request, model, needed))
        return costs

    async def with_decoder(self, ticket: Ticket, function: Callable[[Decode], T]) -> T:
        """Calls a function that decodes a request's pictures; see `octet.rpc.decoders.Decoders.run`."""
        memory = ticket.image_bytes

        def within_memory(decode: Decode) -> T:
            def decode_within(file: bytes, plan: Plan) -> Image.Image:
                if plan.decoder_bytes > memory:
                    raise DecodeError("takes more memory than its request has; send its bytes in data")
                return decode(file, plan)

            return function(decode_within)

        return await self._decoders.run(ticket.caller, within_memory)

    async def in_thread_if_large(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function that takes long only where the call's request is a large one."""
        if call.request_bytes.get() > SMALL_BYTES:
            return await self.in_thread(function, *args, **kwargs)
        return function(*args, **kwargs)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in one of the threads, in the context of this call."""
        return await self._threads.run(function, *args, **kwargs)
