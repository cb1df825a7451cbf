"""What an engine gives, as ModelInferResponses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from octet.engine.types import (
    CandidateFinished,
    Event,
    FinishReason,
    LogprobsDelta,
    PositionLogprobs,
    PromptAccepted,
    TextDelta,
)
from octet.kserve import grpc_service_pb2
from octet.translate.kserve.request import VERSION, Inference
from octet.translate.kserve.tensors import OUTPUTS, write_output
from octet.translate.sampling import MAX_CANDIDATES

# As vLLM calls them; what it does not know has Octet's own name.
_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "abort",
    FinishReason.SCHEMA_VIOLATED: "schema_violated",
}
# What Triton's backend makes of no reason yet.
_UNFINISHED = "None"

_IMPOSSIBLE = -9999.0
"""Stands for minus infinity in JSON, which has none, as in vLLM's own: a token that a form rules out."""


@dataclass(slots=True)
class _Completion:
    """What was added to a completion since the last response, and what holds for all of it."""

    text: list[str] = field(default_factory=list)
    positions: list[PositionLogprobs] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    reason: str = _UNFINISHED


class Answer:
    """Makes responses of a prompt's events: one of all of them, or one whenever something was added.

    Args:
        inference: what was asked for.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        # A request for more is refused when it is its turn, unless it is cancelled before.
        completions = min(max(inference.completion.sampling.n, 1), MAX_CANDIDATES)
        self._completions = [_Completion() for _ in range(completions)]
        self._prompt_tokens = 0
        self._tokens = 0
        self._told_tokens = 0
        self._adds = False

    @property
    def complete(self) -> bool:
        """Whether every completion has ended."""
        return all(completion.reason != _UNFINISHED for completion in self._completions)

    @property
    def adds(self) -> bool:
        """Whether something was added since the last response."""
        return self._adds

    def add(self, event: Event) -> None:
        """Adds what the engine gave."""
        if isinstance(event, PromptAccepted):
            self._prompt_tokens = event.prompt_tokens
            return
        self._prompt_tokens, self._tokens = event.usage.prompt_tokens, event.usage.completion_tokens
        for delta in event.deltas:
            completion = self._completions[delta.index]
            self._adds = True
            match delta:
                case TextDelta():
                    completion.text.append(delta.text)
                case LogprobsDelta():
                    completion.positions += delta.positions
                    completion.cumulative_logprob += sum(_chosen_logprobs(delta.positions))
                case CandidateFinished():
                    completion.reason = _REASONS[delta.reason]
                case _:
                    raise AssertionError(f"a raw prompt's answer has no {type(delta).__name__}")

    def response(self, *, in_stream: bool) -> grpc_service_pb2.ModelInferResponse:
        """What was added since the last response; the first one begins with the prompt where that is wanted.

        Args:
            in_stream: whether it says that it is the last, or not.
        """
        asked = self._inference
        response = grpc_service_pb2.ModelInferResponse(
            model_name=asked.model_name, model_version=VERSION, id=asked.id
        )
        if in_stream:
            response.parameters["triton_final_response"].bool_param = self.complete
        for name, spec in OUTPUTS.items():
            if name in asked.outputs:
                write_output(response, spec, self._values(name), raw=asked.raw)
        self._told_tokens = self._tokens
        self._adds = False
        for completion in self._completions:
            completion.text.clear()
            completion.positions.clear()
        return response

    def _values(self, output: str) -> Sequence[Any]:
        completions = self._completions
        match output:
            case "text_output":
                return [(self._inference.prefix + "".join(one.text)).encode() for one in completions]
            case "finish_reason":
                return [one.reason.encode() for one in completions]
            case "cumulative_logprob":
                return [one.cumulative_logprob for one in completions]
            case "logprobs":
                return [self._logprobs(one) for one in completions]
            case "num_input_tokens":
                return [self._prompt_tokens]
        assert output == "num_output_tokens"
        if self._inference.counts_positions:
            return [len(one.positions) for one in completions]
        return [self._tokens - self._told_tokens]

    def _logprobs(self, completion: _Completion) -> bytes:
        """JSON of a list with an object a token, by token ids; "null" where none were asked for."""
        if not self._inference.gives_logprobs:
            return b"null"
        return json.dumps([_by_token(position) for position in completion.positions]).encode()


def _chosen_logprobs(positions: Sequence[PositionLogprobs]) -> list[float]:
    return [position.chosen.logprob for position in positions if position.chosen is not None]


def _by_token(position: PositionLogprobs) -> dict[str, dict[str, Any]]:
    tokens = [*position.top] if position.chosen is None else [position.chosen, *position.top]
    return {
        str(token.token_id): {
            "logprob": max(token.logprob, _IMPOSSIBLE),
            "rank": token.rank,
            "decoded_token": token.text,
        }
        for token in tokens
    }
