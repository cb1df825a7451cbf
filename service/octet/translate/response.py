"""What an engine gives, as streamed chunks and as whole answers."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import assert_never

from octet.engine.types import (
    CandidateFinished,
    Delta,
    Deltas,
    Event,
    FinishReason,
    LogprobsDelta,
    PromptAccepted,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from octet.translate.chunks import ChunkAccumulator
from octet.translate.logprobs import to_positions
from octet.v1 import chat_service_pb2, completion_service_pb2

FINISH_REASONS = {
    FinishReason.STOP: chat_service_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: chat_service_pb2.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: chat_service_pb2.FINISH_REASON_TOOL_CALLS,
    FinishReason.CANCELLED: chat_service_pb2.FINISH_REASON_CANCELLED,
    FinishReason.SCHEMA_VIOLATED: chat_service_pb2.FINISH_REASON_SCHEMA_VIOLATED,
}


def first_chunk(
    accepted: PromptAccepted, *, request_id: str, model: str, create_time: datetime
) -> chat_service_pb2.ChatChunk:
    """Gives the chunk that says that the prompt was accepted, and what it takes.

    Args:
        accepted: the engine's first event.
        request_id: the request's id.
        model: the served name of the model.
        create_time: when the server took the request, with a time zone.
    """
    chunk = chat_service_pb2.ChatChunk(id=request_id, model=model)
    chunk.create_time.FromDatetime(create_time)
    chunk.usage.prompt_tokens = accepted.prompt_tokens
    chunk.usage.total_tokens = accepted.prompt_tokens
    chunk.usage.image_tokens = accepted.image_tokens
    return chunk


def delta_chunk(steps: Sequence[Deltas]) -> chat_service_pb2.ChatChunk:
    """Gives what one or more engine steps added as one chunk.

    Neighbouring pieces of a candidate are merged as far as their order permits. The chunk has no deltas, and
    need not be sent, when the steps added nothing.
    """
    chunk = chat_service_pb2.ChatChunk()
    latest: dict[int, chat_service_pb2.CandidateDelta] = {}
    for step in steps:
        chunk.prompt_logprobs.extend(to_positions(step.prompt_logprobs))
        for delta in step.deltas:
            if not _adds_something(delta):
                continue
            candidate = latest.get(delta.index)
            if candidate is None or _comes_too_late(delta, candidate):
                candidate = latest[delta.index] = chunk.deltas.add(index=delta.index)
            _append(delta, candidate)
    return chunk


def add_usage(chunk: chat_service_pb2.ChatChunk, usage: Usage) -> None:
    """Makes `chunk` the last one: it carries the whole usage."""
    chunk.usage.CopyFrom(to_usage(usage))


def add_end(
    delta: chat_service_pb2.CandidateDelta | completion_service_pb2.CompletionDelta, end: CandidateFinished
) -> None:
    """Says in `delta` why the candidate has ended, and what it wrote that ended it."""
    delta.finish_reason = FINISH_REASONS[end.reason]
    match end.stop:
        case str():
            delta.stop_string = end.stop
        case int():
            delta.stop_token_id = end.stop


def to_usage(usage: Usage) -> chat_service_pb2.Usage:
    """Gives what was used."""
    return chat_service_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        image_tokens=usage.image_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def to_chat_response(
    events: Iterable[Event], *, request_id: str, model: str, create_time: datetime
) -> chat_service_pb2.ChatResponse:
    """Gives the whole answer out of all events of a request: what a client makes of the streamed chunks.

    Args:
        events: all that the engine gave, in order.
        request_id: the request's id.
        model: the served name of the model.
        create_time: when the server took the request, with a time zone.
    """
    answer = ChunkAccumulator()
    for event in events:
        match event:
            case PromptAccepted():
                answer.add(first_chunk(event, request_id=request_id, model=model, create_time=create_time))
            case Deltas():
                chunk = delta_chunk([event])
                add_usage(chunk, event.usage)
                answer.add(chunk)
            case _:
                assert_never(event)
    return answer.response()


def _comes_too_late(delta: Delta, candidate: chat_service_pb2.CandidateDelta) -> bool:
    """Whether `delta` needs a CandidateDelta of its own, in which reasoning comes first and calls last."""
    match delta:
        case ReasoningDelta():
            return bool(candidate.text or candidate.tool_calls)
        case TextDelta():
            return bool(candidate.tool_calls)
        case _:
            return False


def _adds_something(delta: Delta) -> bool:
    match delta:
        case TextDelta() | ReasoningDelta():
            return bool(delta.text)
        case ToolCallDelta():
            return bool(delta.id or delta.name or delta.arguments_json)
        case LogprobsDelta():
            return bool(delta.positions)
        case CandidateFinished():
            return True
        case _:
            assert_never(delta)


def _append(delta: Delta, candidate: chat_service_pb2.CandidateDelta) -> None:
    match delta:
        case TextDelta():
            candidate.text += delta.text
        case ReasoningDelta():
            candidate.reasoning += delta.text
        case ToolCallDelta():
            _append_call(delta, candidate)
        case LogprobsDelta():
            candidate.logprobs.extend(to_positions(delta.positions))
        case CandidateFinished():
            add_end(candidate, delta)
        case _:
            assert_never(delta)


def _append_call(delta: ToolCallDelta, candidate: chat_service_pb2.CandidateDelta) -> None:
    if candidate.tool_calls and candidate.tool_calls[-1].index == delta.call_index and not delta.id:
        candidate.tool_calls[-1].arguments_json += delta.arguments_json
        return
    candidate.tool_calls.add(
        index=delta.call_index, id=delta.id, name=delta.name, arguments_json=delta.arguments_json
    )
