"""An engine whose answers, faults and timing the tests script; everything else in these tests is real."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace as replace_fields
from pathlib import Path

from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Embedding,
    EmbeddingRequest,
    Event,
    FinishReason,
    GenerationRequest,
    ImagePart,
    ModelInfo,
    Prompt,
    PromptAccepted,
    Quantization,
    Service,
    TextDelta,
    TextPart,
    Tokens,
    TokensPart,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    Usage,
    Vectors,
)
from octet.errors import AdapterExistsError, AdapterLimitError, EngineDeadError, InvalidRequestError
from octet.server.warmup import REQUEST_ID as WARM_UP_ID

Script = Callable[[GenerationRequest], AsyncGenerator[Event, None]]

PROMPT_TOKENS = 7


class FakeEngine:
    """Plays a script for each request and remembers what it was asked and which answers are unfinished."""

    def __init__(
        self,
        script: Script,
        *,
        takes_images: bool = True,
        services: tuple[Service, ...] = (Service.CHAT, Service.COMPLETION),
    ) -> None:
        self.script = script
        self.embedded: list[EmbeddingRequest] = []
        self.embeds = asyncio.Event()
        self.embeds.set()
        self.requests: list[GenerationRequest] = []
        self.counted: list[GenerationRequest] = []
        self.unfinished: set[str] = set()
        self.idle = asyncio.Event()
        self.death: EngineDeadError | None = None
        self.closed = False
        self.kv_usage: float | None = 0.25
        self.folders: dict[str, Path] = {}
        self.loading = asyncio.Event()
        self.may_load = asyncio.Event()
        self.may_load.set()
        self._model = ModelInfo(
            names=("fake", "fake-alias"),
            source="tests/fake",
            takes_images=takes_images,
            context_window=4096,
            output_token_limit=1024,
            quantization=Quantization("FP8_DYNAMIC", "e4m3", "e4m3"),
            active_kernels=("per_token_quant_fp8: octet/avx2",),
            max_images=4 if takes_images else 0,
            tokens_per_image=16 if takes_images else 0,
            vocabulary_size=1000,
            adapters=("pirate",),
            services=services,
            vectors=Vectors(4, (2, 3)) if Service.EMBEDDING in services else None,
        )

    @property
    def model(self) -> ModelInfo:
        return self._model

    def set_max_sequences(self, sequences: int) -> None:
        """Sets how many sequences the engine computes at the same time."""
        self._model = replace_fields(self._model, max_sequences=sequences)

    @property
    def asked(self) -> list[GenerationRequest]:
        """The requests of clients."""
        return [request for request in self.requests if request.request_id != WARM_UP_ID]

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if self.death is not None:
            raise self.death
        self.requests.append(request)
        self.unfinished.add(request.request_id)
        self.idle.clear()
        events = self.script(request)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()
            self.unfinished.discard(request.request_id)
            if not self.unfinished:
                self.idle.set()

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """Gives the length of the text, once `embeds` is set; a token is a character."""
        self.embedded.append(request)
        self.unfinished.add(request.request_id)
        self.idle.clear()
        try:
            await self.embeds.wait()
        finally:
            self.unfinished.discard(request.request_id)
            if not self.unfinished:
                self.idle.set()
        said = said_in(request.prompt)
        values = [float(len(said)), 1.0, 2.0, 3.0][: request.dimensions or 4]
        return Embedding(values, Usage(len(said), 0, 0, 0))

    async def count_tokens(self, request: GenerationRequest) -> PromptAccepted:
        """Goes as far as the script's first event."""
        self.counted.append(request)
        async with aclosing(self.script(request)) as events:
            first = await anext(events)
        assert isinstance(first, PromptAccepted)
        return first

    async def tokenize(
        self, text: str, *, add_special_tokens: bool, parse_special_tokens: bool | None
    ) -> Tokens:
        """A token is a character, unless it is <bos>."""
        said = re.findall("<bos>|.", text, re.DOTALL) if parse_special_tokens else tuple(text)
        texts = ("<bos>",) * add_special_tokens + tuple(said)
        return Tokens(tuple(2 if token == "<bos>" else ord(token) for token in texts), texts)

    async def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        ids = [i for i in token_ids if not (skip_special_tokens and i == 2)]
        return "".join("<bos>" if i == 2 else chr(i) for i in ids)

    async def load_adapter(self, name: str, folder: Path, *, replace: bool) -> bool:
        """Takes any two adapters; one whose folder is called "broken" cannot be loaded."""
        self.loading.set()
        await self.may_load.wait()
        if folder.name == "broken":
            raise InvalidRequestError("path", "names an adapter that cannot be loaded: broken")
        if name in self._model.adapters and not replace:
            if self.folders.get(name) == folder:
                return False
            raise AdapterExistsError(f"another adapter has the name {name!r}")
        if len(self._model.adapters) == 2 and name not in self._model.adapters:
            raise AdapterLimitError("2 adapters are loaded")
        self.folders[name] = folder
        self._model = replace_fields(
            self._model, adapters=tuple({**dict.fromkeys(self._model.adapters), name: 0})
        )
        return True

    async def unload_adapter(self, name: str) -> int | None:
        if name not in self._model.adapters:
            return None
        left = tuple(adapter for adapter in self._model.adapters if adapter != name)
        self._model = replace_fields(self._model, adapters=left)
        return len(self.unfinished)

    async def num_unfinished(self) -> int:
        return len(self.unfinished)

    def kv_cache_usage(self) -> float | None:
        return self.kv_usage

    async def check_health(self) -> None:
        if self.death is not None:
            raise self.death

    def close(self) -> None:
        self.closed = True

    def kill(self) -> None:
        pass


def said_in(prompt: Prompt) -> str:
    """The texts of a prompt, and its tokens as characters."""
    parts = (
        part.text if isinstance(part, TextPart) else "".join(map(chr, part.ids))
        for part in prompt.parts
        if isinstance(part, TextPart | TokensPart)
    )
    return "".join(parts)


def usage(completion_tokens: int) -> Usage:
    return Usage(PROMPT_TOKENS, completion_tokens, cached_tokens=0, image_tokens=0)


def accepted() -> PromptAccepted:
    return PromptAccepted(prompt_tokens=PROMPT_TOKENS, image_tokens=0)


def text(piece: str, tokens: int, index: int = 0) -> Deltas:
    return Deltas((TextDelta(index, piece),), usage(tokens))


def finished(tokens: int, reason: FinishReason = FinishReason.STOP, index: int = 0) -> Deltas:
    return Deltas((CandidateFinished(index, reason),), usage(tokens))


async def echo(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """Gives the last message's text or the prompt's back, a word at a time, in each of the candidates."""
    if request.prompt is not None:
        said = said_in(request.prompt)
    else:
        said = "".join(part.text for part in request.messages[-1].parts if isinstance(part, TextPart))
    words = [f"{word} " for word in said.split()]
    tokens = 0
    yield accepted()
    for word in words:
        for index in range(request.sampling.n):
            tokens += 1
            yield text(word, tokens, index)
        await asyncio.sleep(0)
    for index in range(request.sampling.n):
        yield finished(tokens, index=index)


async def flood(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """Says more than a gigabyte when asked for a "flood", and otherwise gives the last message back."""
    if request.messages[-1].parts != (TextPart("flood"),):
        async for event in echo(request):
            yield event
        return
    yield accepted()
    for tokens in range(1, 20_000):
        yield text("x" * 2**16, tokens)
        await asyncio.sleep(0)
    yield finished(20_000)


async def call_tool(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """Calls the request's first tool, with the arguments in two pieces."""
    yield accepted()
    if not request.tools:
        yield finished(0)
        return
    name = request.tools[0].name
    earlier = sum(isinstance(part, ToolCallPart) for turn in request.messages for part in turn.parts)
    yield Deltas((ToolCallDelta(0, 0, f"call_{earlier + 1}", name, ""),), usage(1))
    yield Deltas((ToolCallDelta(0, 0, "", "", '{"city": '),), usage(2))
    yield Deltas((ToolCallDelta(0, 0, "", "", '"Oslo"}'),), usage(3))
    yield finished(4, FinishReason.TOOL_CALLS)


async def use_tool(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """Calls the request's first tool, and says what it gave once there is a result."""
    *_, last = request.messages
    results = [part.content for part in last.parts if isinstance(part, ToolResultPart)]
    if not results:
        async for event in call_tool(request):
            yield event
        return
    yield accepted()
    shown = " and a picture" * any(isinstance(part, ImagePart) for part in last.parts)
    yield text(f"It gave {', '.join(results)}{shown}.", 1)
    yield finished(1)


class Endless:
    """Says `words` and then nothing until `release` is set, when it says "last" and ends."""

    def __init__(self, words: tuple[str, ...] = ("first ",), *, accept: bool = True) -> None:
        self.words = words
        self.accept = accept
        self.started = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id == WARM_UP_ID:
            yield accepted()
            yield finished(0)
            return
        if self.accept:
            yield accepted()
            for tokens, word in enumerate(self.words, start=1):
                yield text(word, tokens)
        self.started.set()
        await self.release.wait()
        yield text("last", len(self.words) + 1)
        yield finished(len(self.words) + 1)
