"""Translation that may take long, in threads."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

from octet.engine.types import GenerationRequest, ModelInfo
from octet.translate.media import ImageLimits
from octet.translate.request import is_costly, to_generation_request
from octet.v1 import chat_service_pb2

P = ParamSpec("P")
T = TypeVar("T")


class Translator:
    """Translates without keeping the event loop from other calls.

    Args:
        limits: limits on pictures.
        threads: where costly requests, such as those with pictures, are translated.
    """

    def __init__(self, limits: ImageLimits, threads: Executor) -> None:
        self._limits = limits
        self._threads = threads

    async def to_generation_request(
        self, request: chat_service_pb2.ChatRequest, model: ModelInfo, request_id: str
    ) -> GenerationRequest:
        """Checks and converts a request; see `octet.translate.request.to_generation_request`."""
        translate = partial(
            to_generation_request, request, model=model, limits=self._limits, request_id=request_id
        )
        return await self.in_thread(translate) if is_costly(request) else translate()

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in one of the threads, in the context of this call."""
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
