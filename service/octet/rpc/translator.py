"""Translation that may take long, in threads."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from PIL import Image

from octet.engine.types import GenerationRequest, ModelInfo
from octet.pictures.decode import DecodeError
from octet.pictures.plan import Plan
from octet.rpc import call
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost, estimate
from octet.rpc.admission.ticket import Ticket
from octet.rpc.decoders import Decoders
from octet.rpc.fair_threads import FairThreads
from octet.translate.image_memory import image_memory
from octet.translate.media import Decode, ImageLimits
from octet.translate.messages import image_fields, uris_to_fetch
from octet.translate.request import is_costly, to_generation_request
from octet.translate.request_limits import check_counts, limits_of
from octet.translate.wire import SMALL_BYTES
from octet.v1 import chat_service_pb2

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
        fetched: Mapping[str, bytes] = MappingProxyType({})
        if self._fetcher is not None and (uris := uris_to_fetch(request.messages, model)):
            fetched = await self._fetcher.fetch_all(uris)
            await self._admission.take_image_memory(
                ticket, image_memory(request, model, self.limits, fetched)
            )
        translate = partial(
            to_generation_request,
            request,
            model=model,
            limits=self.limits,
            request_id=request_id,
            fetched=fetched,
        )
        if image_fields(request.messages):
            generation = await self.with_decoder(ticket, lambda decode: translate(decode=decode))
            self._admission.hold_image_memory(ticket, generation.image_bytes)
            return generation
        costly = is_costly(request, call.request_bytes.get())
        return await self.in_thread(translate) if costly else translate()

    async def to_cost(self, request: chat_service_pb2.ChatRequest, model: ModelInfo) -> Cost:
        """What answering a request takes, once it is known to hold no more than it may.

        Raises:
            InvalidRequestError: it holds more, or its pictures take more memory than they may.
        """
        check_counts(request, limits_of(model))
        if call.request_bytes.get() > SMALL_BYTES:
            return await self.in_thread(self._cost, request, model)
        return self._cost(request, model)

    def _cost(self, request: chat_service_pb2.ChatRequest, model: ModelInfo) -> Cost:
        return estimate(request, model, image_memory(request, model, self.limits))

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

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in one of the threads, in the context of this call."""
        return await self._threads.run(function, *args, **kwargs)
