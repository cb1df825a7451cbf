"""What answers to SMG gateways say, in the terms of the engine's events, for whoever measures them."""

from collections.abc import Iterator

from smg_grpc_proto import vllm_engine_pb2

from octet.engine.types import CandidateFinished, Deltas, Event, FinishReason, PromptAccepted, Usage

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "abort": FinishReason.CANCELLED,
}


class GatewayEvents:
    """Reads the responses of one answer; the events say how many tokens there are, not which.

    Args:
        streamed: whether tokens come in chunks; a candidate's last response then repeats the last of them.
        image_tokens: how many of the prompt's tokens stand for pictures.
    """

    def __init__(self, *, streamed: bool, image_tokens: int) -> None:
        self._streamed = streamed
        self._image_tokens = image_tokens
        self._usage: Usage | None = None

    def read(self, response: vllm_engine_pb2.GenerateResponse) -> Iterator[Event]:
        """The events that a response stands for."""
        finished = response.HasField("complete")
        part = response.complete if finished else response.chunk
        if self._usage is None:
            yield PromptAccepted(part.prompt_tokens, self._image_tokens)
            self._usage = Usage(part.prompt_tokens, 0, 0, self._image_tokens)
        repeated = finished and self._streamed
        self._usage = Usage(
            self._usage.prompt_tokens,
            self._usage.completion_tokens + (0 if repeated else part.completion_tokens),
            max(self._usage.cached_tokens, part.cached_tokens),
            self._image_tokens,
        )
        reason = _FINISH_REASONS.get(part.finish_reason) if finished else None
        yield Deltas(() if reason is None else (CandidateFinished(part.index, reason),), self._usage)
