"""What the service asks of an engine."""

from collections.abc import AsyncGenerator
from typing import Protocol

from octet.engine.types import Event, GenerationRequest, ModelInfo


class Engine(Protocol):
    """A model that continues conversations. All methods run on one event loop and never block it."""

    @property
    def model(self) -> ModelInfo:
        """What is served; constant while the engine lives."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Continues the conversation.

        The first event is `PromptAccepted`, every other one `Deltas`; the generator ends after each of the n
        candidates got its `CandidateFinished`. Closing the generator, or cancelling the task that iterates
        it, stops the work within a step.

        Raises:
            InvalidRequestError: before the first event, when the prompt cannot be rendered, is longer than
                the context (`ContextLengthError`), or a constraint cannot be compiled.
            EngineDeadError: when the engine has died, before or in the middle of the answer.
        """
        ...

    async def num_unfinished(self) -> int:
        """How many requests the engine itself is still working on."""
        ...

    async def check_health(self) -> None:
        """Returns when the engine answers.

        Raises:
            EngineDeadError: when it never will again.
        """
        ...

    def close(self) -> None:
        """Stops the engine and its processes. Idempotent."""
        ...
