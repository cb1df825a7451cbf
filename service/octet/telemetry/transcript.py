"""What was said, for those who want it in the log."""

import logging

from octet.engine.types import (
    EmbeddingRequest,
    Event,
    GenerationRequest,
    ImagePart,
    Part,
    PromptAccepted,
    ReasoningPart,
    TextDelta,
    TextPart,
    TokensPart,
    ToolCallDelta,
    ToolCallPart,
)

logger = logging.getLogger("octet")


class Transcript:
    """Keeps the beginnings of a prompt and of its answer's first candidate.

    Args:
        request: what was asked.
        limit: how many characters of each are kept.
    """

    def __init__(self, request: GenerationRequest | EmbeddingRequest, limit: int) -> None:
        self._limit = limit
        self._prompt = ""
        self._answer = ""
        for message in request.messages if isinstance(request, GenerationRequest) else ():
            said = "".join(_shown(part) for part in message.parts)
            self._prompt = self._add(self._prompt, f"{message.role.value}: {said}\n")
        for part in request.prompt.parts if request.prompt else ():
            self._prompt = self._add(self._prompt, _shown(part))

    def note(self, event: Event) -> None:
        """Takes account of `event`."""
        if isinstance(event, PromptAccepted):
            return
        for delta in event.deltas:
            if isinstance(delta, TextDelta) and delta.index == 0:
                self._answer = self._add(self._answer, delta.text)
            elif isinstance(delta, ToolCallDelta) and delta.index == 0:
                self._answer = self._add(self._answer, delta.name + delta.arguments_json)

    def log(self) -> None:
        """Writes it to the log."""
        logger.info("chat", extra={"fields": {"prompt": self._prompt, "answer": self._answer}})

    def _add(self, text: str, more: str) -> str:
        return text + more[: self._limit - len(text)]


def _shown(part: Part | TokensPart) -> str:
    if isinstance(part, TextPart | ReasoningPart):
        return part.text
    if isinstance(part, ImagePart):
        return "<image>"
    if isinstance(part, TokensPart):
        return f"<{len(part.ids)} tokens>"
    if isinstance(part, ToolCallPart):
        return f"{part.name}{part.arguments_json}"
    return part.content
