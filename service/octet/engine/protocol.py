"""What the service asks of an engine."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol

from octet.engine.types import (
    Embedding,
    EmbeddingRequest,
    Event,
    GenerationRequest,
    ModelInfo,
    PromptAccepted,
    Tokens,
)


class Engine(Protocol):
    """A model. All methods run on one event loop and never block it.

    `generate` and `count_tokens` are only asked of a model for chats or completions, `embed` only of one for
    embeddings: `ModelInfo.services` says what it is for.
    """

    @property
    def model(self) -> ModelInfo:
        """What is served; but for its adapters, constant while the engine lives."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Continues the conversation or the prompt.

        The first event is `PromptAccepted`, every other one `Deltas`; with the first, an engine has let go of
        the request's pictures. The generator ends after each of the n candidates got its
        `CandidateFinished`. Closing the generator, or cancelling the task that iterates
        it, stops the work within a step.

        Raises:
            InvalidRequestError: before the first event, when the prompt cannot be rendered, is longer than
                the context (`ContextLengthError`), or a constraint cannot be compiled.
            EngineDeadError: when the engine has died, before or in the middle of the answer.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """Gives the vector of a prompt. Cancelling the task that awaits it stops the work within a step.

        Raises:
            InvalidRequestError: the prompt is longer than the context (`ContextLengthError`), or the model
                does not take it.
            EngineDeadError: when the engine has died.
        """
        ...

    async def count_tokens(self, request: GenerationRequest) -> PromptAccepted:
        """Counts the tokens of the prompt that `generate` would make, and generates nothing.

        Raises:
            InvalidRequestError: whenever `generate` would raise it.
            EngineDeadError: when the engine has died.
        """
        ...

    async def tokenize(
        self, text: str, *, add_special_tokens: bool, parse_special_tokens: bool | None
    ) -> Tokens:
        """Splits a text into tokens.

        Args:
            text: the text.
            add_special_tokens: whether tokens such as the one that begins a sequence are added.
            parse_special_tokens: whether names of special tokens in it become these; None: as in messages.
        """
        ...

    async def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Puts tokens together to text.

        Args:
            token_ids: ids below the model's vocabulary size.
            skip_special_tokens: whether special tokens are left out.
        """
        ...

    async def load_adapter(self, name: str, folder: Path, *, replace: bool) -> bool:
        """Loads a LoRA adapter, which requests may name from then on.

        Args:
            name: what they call it.
            folder: where it is, in PEFT's format.
            replace: whether it takes the place of one that has the name; requests that run on that finish.

        Returns:
            Whether it was not loaded before.

        Raises:
            InvalidRequestError: at `path`, for what is no adapter of this model's.
            AdapterExistsError: another one has the name.
            AdapterLimitError: as many are loaded as the engine holds.
            EngineDeadError: when the engine has died.
        """
        ...

    async def unload_adapter(self, name: str) -> int | None:
        """Lets no more requests name an adapter; those that run on it finish.

        Returns:
            How many these are; None where it is not loaded.
        """
        ...

    async def num_unfinished(self) -> int:
        """How many requests the engine itself is still working on."""
        ...

    def kv_cache_usage(self) -> float | None:
        """Share of the KV cache that running requests took in the latest step, 0 to 1; None if unknown."""
        ...

    async def check_health(self) -> None:
        """Returns when the engine answers.

        Raises:
            EngineDeadError: when it never will again.
        """
        ...

    def close(self) -> None:
        """Stops the engine and waits for the end of its processes, which takes a while. Idempotent."""
        ...

    def kill(self) -> None:
        """Ends the engine's processes at once, also those that `close` waits for in another thread."""
        ...
