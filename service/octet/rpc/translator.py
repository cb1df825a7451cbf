"""Translation that may take long, in threads."""

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from octet.engine.types import GenerationRequest, ModelInfo
from octet.rpc import call
from octet.rpc.admission.cost import Cost, estimate
from octet.rpc.fair_threads import FairThreads
from octet.translate.media import ImageLimits
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
        image_threads: where requests with pictures are translated; as many as are decoded at the same time.
        threads: where everything else is done that is costly, so that pictures do not hold it up, nor callers
            each other.
        fetcher: fetches pictures that are elsewhere; None leaves that to nobody.
    """

    def __init__(
        self,
        limits: ImageLimits,
        image_threads: Executor,
        threads: FairThreads,
        fetcher: "ImageFetcher | None",
    ) -> None:
        self._limits = limits
        self._image_threads = image_threads
        self._threads = threads
        self._fetcher = fetcher

    async def to_generation_request(
        self, request: chat_service_pb2.ChatRequest, model: ModelInfo, request_id: str
    ) -> GenerationRequest:
        """Checks and converts a request; see `octet.translate.request.to_generation_request`."""
        fetched: Mapping[str, bytes] = {}
        if self._fetcher is not None and (uris := uris_to_fetch(request.messages, model)):
            fetched = await self._fetcher.fetch_all(uris)
        translate = partial(
            to_generation_request,
            request,
            model=model,
            limits=self._limits,
            request_id=request_id,
            fetched=fetched,
        )
        if image_fields(request.messages):
            return await _in(self._image_threads, translate)
        costly = is_costly(request, call.request_bytes.get())
        return await self.in_thread(translate) if costly else translate()

    async def to_cost(self, request: chat_service_pb2.ChatRequest, model: ModelInfo) -> Cost:
        """What answering a request takes, once it is known to hold no more than it may.

        Raises:
            InvalidRequestError: it holds more.
        """
        check_counts(request, limits_of(model))
        if call.request_bytes.get() > SMALL_BYTES:
            return await self.in_thread(estimate, request, model)
        return estimate(request, model)

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in one of the threads, in the context of this call."""
        return await self._threads.run(function, *args, **kwargs)


async def _in(threads: Executor, function: Callable[[], T]) -> T:
    in_context = partial(contextvars.copy_context().run, function)
    return await asyncio.get_running_loop().run_in_executor(threads, in_context)
