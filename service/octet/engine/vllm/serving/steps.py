"""What a step of the engine's adds to an answer."""

import asyncio
import dataclasses
from typing import Any

from octet.engine.types import (
    CandidateFinished,
    Delta,
    FinishReason,
    LogprobsDelta,
    TextDelta,
    Usage,
)
from octet.engine.vllm import compat
from octet.engine.vllm.constraints.request import Constraint
from octet.engine.vllm.constraints.unique import Watch
from octet.engine.vllm.serving.answer import AnswerReader
from octet.engine.vllm.serving.begun import Begun
from octet.engine.vllm.serving.logprobs import to_positions
from octet.engine.vllm.serving.vocabulary import Vocabulary
from octet.errors import InvalidRequestError, UnavailableError

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "abort": FinishReason.CANCELLED,
    "repetition": FinishReason.STOP,
}

_COMPLETE = (FinishReason.STOP, FinishReason.TOOL_CALLS)


def lacks_pictures(output: Any) -> bool:
    """Whether the engine's cache had not the pictures that a prompt left out: said of the first output of
    such a prompt. vLLM's two caches drift apart where a prompt that notes pictures as sent is dropped
    before it is sent, or is overtaken by one that relies on it.
    """
    return any(
        candidate.finish_reason == "error" and candidate.stop_reason is None for candidate in output.outputs
    )


def raise_failure(output: Any, constraint: Constraint | None) -> None:
    """Raises what is to blame when the engine could not go on with a candidate."""
    for candidate in output.outputs:
        if candidate.finish_reason != "error":
            continue
        reason = candidate.stop_reason
        if (
            constraint is not None
            and isinstance(reason, str)
            and reason.startswith(compat.constraints.FAILURE)
        ):
            raise InvalidRequestError(constraint.field, reason.removeprefix(compat.constraints.FAILURE))
        raise UnavailableError("the engine could not finish the request; try again")


def watches_of(constraint: Constraint | None, begun: Begun | None, candidates: int) -> list[Watch]:
    """What looks at each candidate's whole answer when it is complete; nothing where that needs no look."""
    if constraint is None or not constraint.unique:
        return []
    watches = [Watch(constraint.unique) for _ in range(candidates)]
    if begun is not None and None in constraint.unique:
        for i, watch in enumerate(watches):
            watch.take(TextDelta(i, begun.text))
    return watches


async def watched(deltas: list[Delta], watches: list[Watch]) -> list[Delta]:
    """The deltas, with the ends of complete answers that break their schema said to be that."""
    seen: list[Delta] = []
    for delta in deltas:
        watch = watches[delta.index]
        watch.take(delta)
        if (
            isinstance(delta, CandidateFinished)
            and delta.reason in _COMPLETE
            and not await asyncio.to_thread(watch.keeps_unique)
        ):
            delta = dataclasses.replace(delta, reason=FinishReason.SCHEMA_VIOLATED)
        seen.append(delta)
    return seen


def read(
    output: Any, readers: list[AnswerReader], vocabulary: Vocabulary, top_logprobs: int
) -> tuple[list[Delta], list[int]]:
    """What a step's output adds to the answer, and the candidates that end before the model ends them."""
    deltas: list[Delta] = []
    cut: list[int] = []
    for candidate in output.outputs:
        reader, reason = readers[candidate.index], candidate.finish_reason
        if reader.done:
            continue
        if candidate.logprobs:
            positions = to_positions(candidate.logprobs, vocabulary, top_logprobs)
            deltas.append(LogprobsDelta(candidate.index, positions))
        deltas += reader.read(
            candidate.text, list(candidate.token_ids), output.prompt_token_ids, finished=reason is not None
        )
        if reader.done:
            deltas.append(CandidateFinished(candidate.index, FinishReason.TOOL_CALLS, _stop(candidate)))
            if reason is None:
                cut.append(candidate.index)
        elif reason is not None:
            finish = _FINISH_REASONS[reason]
            if finish is FinishReason.STOP and reader.made_calls:
                finish = FinishReason.TOOL_CALLS
            deltas.append(CandidateFinished(candidate.index, finish, _stop(candidate)))
    return deltas, cut


def _stop(candidate: Any) -> str | int | None:
    """What ended a candidate: a stop string, or a token; None where it is no such thing."""
    if candidate.finish_reason != "stop":
        return None
    if candidate.stop_reason is not None:
        reason: str | int = candidate.stop_reason
        return reason
    # vLLM gives no reason for the end of a turn.
    return candidate.token_ids[-1] if candidate.token_ids else None


def add_usage(usage: Usage, output: Any, readers: list[AnswerReader]) -> Usage:
    """What an answer has used with a step's output."""
    read = [candidate for candidate in output.outputs if not readers[candidate.index].done]
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens + sum(len(candidate.token_ids) for candidate in read),
        max(usage.cached_tokens, output.num_cached_tokens or 0),
        usage.image_tokens,
    )
