"""A server whose engine is a script: a token every 5 ms, and a context window of Gemma 3's size.

`bench.neighbours --scripted` starts it. What is left is what gRPC, `rpc/` and `translate/` take, for requests
as large as the largest models permit.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from octet.cli.serve import serve_engine
from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Event,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    PromptAccepted,
    TextDelta,
    Tokens,
    Usage,
)
from tests.integration.fake_engine import FakeEngine

_CONTEXT = 131072
_TOKEN_SECONDS = 0.005
_TOKENIZE_SECONDS = 0.5


async def steady(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """A token every `_TOKEN_SECONDS`, as many as asked for, or two."""
    wanted = request.sampling.max_tokens or 2
    yield PromptAccepted(prompt_tokens=8, image_tokens=0)
    for count in range(1, wanted + 1):
        await asyncio.sleep(_TOKEN_SECONDS)
        yield Deltas((TextDelta(0, "word "),), Usage(8, count, cached_tokens=0, image_tokens=0))
    yield Deltas((CandidateFinished(0, FinishReason.LENGTH),), Usage(8, wanted, 0, 0))


class ScriptedEngine(FakeEngine):
    """Splits a text in `_TOKENIZE_SECONDS`, one after the other."""

    def __init__(self) -> None:
        super().__init__(steady)
        self._thread = ThreadPoolExecutor(1)

    @property
    def model(self) -> ModelInfo:
        """See `octet.engine.protocol.Engine.model`."""
        return replace(super().model, context_window=_CONTEXT)

    async def tokenize(
        self, text: str, *, add_special_tokens: bool, parse_special_tokens: bool | None
    ) -> Tokens:
        """See `octet.engine.protocol.Engine.tokenize`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, time.sleep, _TOKENIZE_SECONDS)
        return Tokens((1,), (text[:1],))


async def _start() -> Engine:
    return ScriptedEngine()


if __name__ == "__main__":
    serve_engine(ServerConfig(port=0, grace_seconds=0, api_keys=os.environ["OCTET_API_KEYS"]), _start)
