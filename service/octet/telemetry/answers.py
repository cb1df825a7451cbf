"""What is measured of an answer, out of its events."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from octet.engine.types import CandidateFinished, Event, PromptAccepted, ToolCallDelta, Usage, total
from octet.telemetry.metrics import Metrics


@dataclass(slots=True)
class AnswerSummary:
    """What the log and the trace say of an answer.

    Attributes:
        usage: its tokens; None before the prompt was accepted.
        time_to_first_token: seconds from the call's arrival; None before there was one.
        tool_calls: how many tools it called.
    """

    usage: Usage | None = None
    time_to_first_token: float | None = None
    tool_calls: int = 0


def summary_of(summaries: Sequence[AnswerSummary]) -> AnswerSummary:
    """What is said of the answers to all prompts of a request together."""
    used = [summary.usage for summary in summaries if summary.usage is not None]
    begun = [summary.time_to_first_token for summary in summaries if summary.time_to_first_token is not None]
    return AnswerSummary(
        usage=total(used) if used else None,
        time_to_first_token=min(begun, default=None),
        tool_calls=sum(summary.tool_calls for summary in summaries),
    )


class AnswerMeter:
    """Follows the events of one answer.

    Args:
        metrics: what is reported to.
        key: the name of the caller's key.
        arrived: when the call arrived, by `time.monotonic`.
        candidates: how many the answer has.
    """

    def __init__(self, metrics: Metrics, key: str, arrived: float, candidates: int) -> None:
        self.summary = AnswerSummary()
        self._metrics = metrics
        self._key = key
        self._arrived = arrived
        self._candidates = candidates
        self._first_tokens = 0
        self._tokens = 0
        self._last_seen = 0.0

    def note(self, event: Event) -> None:
        """Takes account of `event`, now."""
        if isinstance(event, PromptAccepted):
            self.summary.usage = Usage(event.prompt_tokens, 0, 0, event.image_tokens)
            return
        self.summary.usage = event.usage
        if event.usage.completion_tokens > self._tokens:
            self._note_tokens(event.usage.completion_tokens)
        for delta in event.deltas:
            if isinstance(delta, ToolCallDelta):
                self.summary.tool_calls += bool(delta.id)
            elif isinstance(delta, CandidateFinished):
                self._metrics.candidates.labels(delta.reason.value).inc()

    def _note_tokens(self, tokens: int) -> None:
        self._tokens = tokens
        self._last_seen = time.monotonic()
        if self.summary.time_to_first_token is None:
            self._first_tokens = tokens
            self.summary.time_to_first_token = self._last_seen - self._arrived
            self._metrics.time_to_first_token.observe(self.summary.time_to_first_token)

    def report(self) -> None:
        """Reports what is known only at the end, whatever ended the answer."""
        usage, metrics = self.summary.usage, self._metrics
        if usage is None:
            return
        for counter, count in (
            (metrics.prompt_tokens, usage.prompt_tokens),
            (metrics.cached_tokens, usage.cached_tokens),
            (metrics.image_tokens, usage.image_tokens),
            (metrics.generated_tokens, usage.completion_tokens),
            (metrics.tool_calls, self.summary.tool_calls),
        ):
            counter.labels(self._key).inc(count)
        first = self.summary.time_to_first_token
        if first is not None and self._tokens > self._first_tokens:
            seconds = self._last_seen - self._arrived - first
            # Candidates are generated side by side.
            metrics.time_per_output_token.observe(
                seconds * self._candidates / (self._tokens - self._first_tokens)
            )
