"""What a model writes around its reasoning, and how much it thinks."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from octet.engine.vllm.launch.args import one_line
from octet.errors import StartupError


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What a model writes around its reasoning."""

    start: str
    end: str

    def around(self, reasoning: str, text: str, opening: str) -> str:
        """What the model has written of a turn.

        Args:
            reasoning: what it has thought.
            text: what it has said; if that is nothing, it may go on thinking.
            opening: how the template begins a turn, which may begin or end its reasoning.
        """
        if not (reasoning or text):
            return ""
        begins, ends = opening.rfind(self.start), opening.rfind(self.end)
        if ends > begins and not reasoning:
            return text
        start = "" if begins > ends else self.start
        return f"{start}{reasoning}{self.end if text else ''}{text}"


def reasoning_marks(parser: str, tokenizer: Any) -> ReasoningMarks | None:
    """What vLLM's reasoning parser of this name looks for; None where that is not two texts.

    Raises:
        StartupError: there is none of this name, or it does not know this tokenizer.
    """
    from vllm.reasoning import ReasoningParserManager

    if not parser:
        return None
    try:
        reader = ReasoningParserManager.get_reasoning_parser(parser)(tokenizer)
    except Exception as error:
        # Each raises what it likes.
        raise StartupError(f"--reasoning-parser: {one_line(error)}") from error
    start, end = reader.reasoning_start_str, reader.reasoning_end_str
    return ReasoningMarks(start, end) if start and end else None


class ThoughtCounter:
    """Counts the tokens that a candidate thinks.

    Args:
        start: the tokens that begin its reasoning, which are none of it.
        end: those that end it.
    """

    def __init__(self, start: Sequence[int], end: Sequence[int]) -> None:
        self._start, self._end = list(start), list(end)
        self._latest: deque[int] = deque(maxlen=max(len(start), len(end)))
        self._ended = False
        self.tokens = 0

    def take(self, token_ids: Sequence[int]) -> None:
        """Takes the next tokens of the answer."""
        for token in token_ids:
            if self._ended:
                return
            self.tokens += 1
            self._latest.append(token)
            latest = list(self._latest)
            self._ended = latest[-len(self._end) :] == self._end
            for mark in (self._start, self._end):
                if latest[-len(mark) :] == mark:
                    self.tokens -= len(mark)
