"""vLLM's scheduler, whose steps take no longer than those who stream can bear. Imports vllm."""

import time
from dataclasses import dataclass
from itertools import chain
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from octet.engine.vllm.compat.pictures import longest_part
from octet.engine.vllm.inside.pacing.pace import Pace

_SHARE_TOKENS = 128


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that is being computed."""

    began: float
    prompt_tokens: int
    answering: bool


class PacedScheduler(Scheduler):  # type: ignore[misc]
    """Computes no more of prompts in a step than `Pace` says, and leaves a part of that to newcomers.

    The settings keep their meaning: a step never computes more than `--max-num-batched-tokens`, and of one
    prompt never more than `--long-prefill-token-threshold`. A picture is computed in one step, whatever the
    pace.
    """

    max_num_scheduled_tokens: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._octet_pace = Pace()
        self._octet_step: _Step | None = None
        self._octet_most = self.max_num_scheduled_tokens
        self._octet_threshold = self.scheduler_config.long_prefill_token_threshold
        self.octet_longest_part = longest_part(self)
        self._octet_whole_pictures = self.vllm_config.model_config.is_mm_prefix_lm

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """vLLM's step, of bounded length."""
        # vLLM gives out tokens in this order: after a prompt, answers would have to do with what is left.
        self.running.sort(key=self._octet_rank)
        answers = {request.request_id for request in self.running if not request.is_prefill_chunk}
        self._octet_bound_step(len(answers), prompts=len(self.running) - len(answers))
        began = time.perf_counter()
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            self.max_num_scheduled_tokens = self._octet_most
            self.scheduler_config.long_prefill_token_threshold = self._octet_threshold
        tokens = output.num_scheduled_tokens
        prompt_tokens = sum(count for request, count in tokens.items() if request not in answers)
        self._octet_step = _Step(began, prompt_tokens, answering=not answers.isdisjoint(tokens))
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> Any:
        """vLLM's, after the pace has learnt how long the step took."""
        if (step := self._octet_step) is not None:
            encoding = getattr(model_runner_output, "octet_seconds", None) or 0.0
            self._octet_pace.measured(
                time.perf_counter() - step.began - encoding,
                prompt_tokens=step.prompt_tokens,
                answering=step.answering,
            )
        return super().update_from_output(scheduler_output, model_runner_output)

    def octet_spare_seconds(self) -> float:
        """What may be done for that long beside the step that has just been scheduled."""
        return self._octet_pace.spare_seconds(
            answering=self._octet_step is not None and self._octet_step.answering
        )

    def _octet_bound_step(self, answers: int, prompts: int) -> None:
        tokens = self._octet_pace.tokens(answering=answers > 0)
        picture = self._octet_longest_picture() if tokens else 0
        # Each prompt gets a share, and so does one that has not begun yet; but hundreds do not begin at once.
        share = tokens // max(1, prompts + bool(self.waiting))
        share = max(share, min(tokens // 4, _SHARE_TOKENS), picture, 1)
        self.max_num_scheduled_tokens = min(self._octet_most, max(tokens, picture) + answers)
        self.scheduler_config.long_prefill_token_threshold = min(self._octet_threshold or share, share)

    def _octet_rank(self, request: Request) -> tuple[int, int]:
        """Where a request stands among those that run; the last one gives way when the KV cache is full."""
        if not request.is_prefill_chunk:
            return 0, request.priority
        # A picture takes a step's tokens as a whole, or none of them.
        return (1 if self._octet_picture(request) else 2), request.priority

    def _octet_longest_picture(self) -> int:
        return max(map(self._octet_picture, chain(self.running, self.waiting)), default=0)

    def _octet_picture(self, request: Request) -> int:
        """Tokens of the longest picture of a prompt that is still to be computed, if it must not be cut."""
        if not self._octet_whole_pictures or not request.mm_features:
            return 0
        places = (feature.mm_position for feature in request.mm_features)
        computed = request.num_computed_tokens
        return max((place.length for place in places if place.offset + place.length > computed), default=0)
