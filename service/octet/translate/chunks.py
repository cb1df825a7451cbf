"""Chunks of a stream, added up to the whole answer; both ends do it.

Clients are installed without the server, so this imports nothing but the messages.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from octet.translate.values import dict_to_struct, parse_json_object
from octet.v1 import chat_service_pb2, completion_service_pb2, content_pb2, tool_pb2

Stop: TypeAlias = dict[str, Any]
"""The field that says what ended a candidate, with its value; empty where nothing that it wrote did."""


@dataclass(slots=True)
class _ToolCall:
    """A call as far as it was streamed."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def to_part(self) -> content_pb2.Part:
        call = tool_pb2.ToolCall(id=self.id, name=self.name, arguments_json="".join(self.arguments))
        # What is no JSON object, or none that a Struct can hold, is in `arguments_json` alone.
        with suppress(ValueError):
            call.arguments.CopyFrom(dict_to_struct(parse_json_object(call.arguments_json)))
        return content_pb2.Part(tool_call=call)


@dataclass(slots=True)
class _Run:
    """Pieces of text or of reasoning that follow one another."""

    kind: Literal["text", "reasoning"]
    pieces: list[str] = field(default_factory=list)

    def to_part(self) -> content_pb2.Part:
        text = "".join(self.pieces)
        return content_pb2.Part(text=text) if self.kind == "text" else content_pb2.Part(reasoning=text)


@dataclass(slots=True)
class _Candidate:
    """A candidate as far as it was streamed; its text comes in runs between tool calls."""

    parts: list[_Run | _ToolCall] = field(default_factory=list)
    calls: dict[int, _ToolCall] = field(default_factory=dict)
    logprobs: list[chat_service_pb2.PositionLogprobs] = field(default_factory=list)
    finish_reason: chat_service_pb2.FinishReason = chat_service_pb2.FINISH_REASON_UNSPECIFIED
    stop: Stop = field(default_factory=dict)

    def add(self, delta: chat_service_pb2.CandidateDelta) -> None:
        self.logprobs.extend(delta.logprobs)
        if delta.reasoning:
            self._run("reasoning").pieces.append(delta.reasoning)
        if delta.text:
            self._run("text").pieces.append(delta.text)
        for call_delta in delta.tool_calls:
            call = self._call(call_delta.index)
            call.id += call_delta.id
            call.name += call_delta.name
            call.arguments.append(call_delta.arguments_json)
        if delta.finish_reason:
            self.finish_reason = delta.finish_reason
        self.stop = _to_stop(delta) or self.stop

    def to_message(self) -> content_pb2.Message:
        parts = [part.to_part() for part in self.parts]
        return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=parts)

    def _run(self, kind: Literal["text", "reasoning"]) -> _Run:
        last = self.parts[-1] if self.parts else None
        if isinstance(last, _Run) and last.kind == kind:
            return last
        run = _Run(kind)
        self.parts.append(run)
        return run

    def _call(self, index: int) -> _ToolCall:
        if index not in self.calls:
            self.calls[index] = _ToolCall()
            self.parts.append(self.calls[index])
        return self.calls[index]


class ChunkAccumulator:
    """Adds the chunks of a streamed answer up to the answer that Chat would have given."""

    def __init__(self) -> None:
        self._head = chat_service_pb2.ChatResponse()
        self._candidates: dict[int, _Candidate] = {}

    def add(self, chunk: chat_service_pb2.ChatChunk) -> None:
        """Adds the next chunk."""
        if chunk.id:
            self._head.id = chunk.id
            self._head.model = chunk.model
            self._head.create_time.CopyFrom(chunk.create_time)
        for delta in chunk.deltas:
            self._candidates.setdefault(delta.index, _Candidate()).add(delta)
        self._head.prompt_logprobs.extend(chunk.prompt_logprobs)
        if chunk.HasField("usage"):
            self._head.usage.CopyFrom(chunk.usage)

    def response(self) -> chat_service_pb2.ChatResponse:
        """Gives what was added until now; candidates that have not ended have no finish reason."""
        response = chat_service_pb2.ChatResponse()
        response.CopyFrom(self._head)
        for index in sorted(self._candidates):
            candidate = self._candidates[index]
            response.candidates.add(
                index=index,
                message=candidate.to_message(),
                finish_reason=candidate.finish_reason,
                logprobs=candidate.logprobs,
                **candidate.stop,
            )
        return response


@dataclass(slots=True)
class _Completion:
    """A completion as far as it was streamed."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[chat_service_pb2.PositionLogprobs] = field(default_factory=list)
    finish_reason: chat_service_pb2.FinishReason = chat_service_pb2.FINISH_REASON_UNSPECIFIED
    stop: Stop = field(default_factory=dict)


class CompletionAccumulator:
    """Adds the chunks of streamed completions up to the response that Complete would have given.

    Args:
        prompts: how many the request has.
    """

    def __init__(self, prompts: int) -> None:
        self._head = completion_service_pb2.CompletionResponse()
        self._results = [completion_service_pb2.PromptResult() for _ in range(prompts)]
        self._completions: list[dict[int, _Completion]] = [{} for _ in range(prompts)]

    def add(self, chunk: completion_service_pb2.CompletionChunk) -> None:
        """Adds the next chunk."""
        if chunk.id:
            self._head.id = chunk.id
            self._head.model = chunk.model
            self._head.create_time.CopyFrom(chunk.create_time)
        for update in chunk.prompts:
            result = self._results[update.prompt_index]
            result.prompt_logprobs.extend(update.prompt_logprobs)
            if update.HasField("usage"):
                result.usage.CopyFrom(update.usage)
        for delta in chunk.deltas:
            completion = self._completions[delta.prompt_index].setdefault(delta.index, _Completion())
            completion.pieces.append(delta.text)
            completion.logprobs.extend(delta.logprobs)
            completion.finish_reason = delta.finish_reason or completion.finish_reason
            completion.stop = _to_stop(delta) or completion.stop
        if chunk.HasField("usage"):
            self._head.usage.CopyFrom(chunk.usage)

    def response(self) -> completion_service_pb2.CompletionResponse:
        """Gives what was added until now; completions that have not ended have no finish reason."""
        response = completion_service_pb2.CompletionResponse()
        response.CopyFrom(self._head)
        for result, completions in zip(self._results, self._completions, strict=True):
            added = response.results.add()
            added.CopyFrom(result)
            for index in sorted(completions):
                completion = completions[index]
                added.completions.add(
                    index=index,
                    text="".join(completion.pieces),
                    finish_reason=completion.finish_reason,
                    logprobs=completion.logprobs,
                    **completion.stop,
                )
        return response


def _to_stop(delta: chat_service_pb2.CandidateDelta | completion_service_pb2.CompletionDelta) -> Stop:
    """The field of `delta` that says what ended the candidate, with its value; empty where none does."""
    name = delta.WhichOneof("stop")
    return {name: getattr(delta, name)} if name else {}
