"""Constraints in vLLM's engine core: compiled in its pool, and followed for as long as that costs little.

Nothing that a constraint does hurts another request: one that cannot be followed any further ends its own
request, with a reason that the front end finds in the output.
"""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llguidance
import llguidance.hf as llguidance_hf
import llguidance.torch as llguidance_torch
from vllm.v1.structured_output.backend_guidance import GuidanceBackend
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar, StructuredOutputOptions

from octet.engine.vllm.constraints.grammars import ALTERNATIVE, MARK, split_begun
from octet.engine.vllm.constraints.limits import STEP_CREDIT_SECONDS, STEP_SECONDS, parser_limits
from octet.engine.vllm.constraints.reasons import TOO_SLOW, explain

if TYPE_CHECKING:
    import torch

_NICE = 10

_niced = threading.local()


class Backend(GuidanceBackend):  # type: ignore[misc]
    """Compiles what Octet's front end has checked; everything else goes to vLLM's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = {self.tokenizer.eos_token_id, *_ends(self.vllm_config)} - {None}
        if len(ends) > 1 and hasattr(self.tokenizer, "backend_tokenizer"):
            # A model may end its turn with another token than the tokenizer's own end.
            size = max(self.vocab_size, len(self.tokenizer))
            self.ll_tokenizer = llguidance_hf.from_tokenizer(self.tokenizer, size, sorted(ends))

    def compile_grammar(
        self,
        request_type: StructuredOutputOptions,
        grammar_spec: str,
        stop_token_ids: set[int] | None = None,
    ) -> StructuredOutputGrammar:
        """See vLLM's StructuredOutputBackend. Runs in one of the core's threads."""
        if request_type is not StructuredOutputOptions.GRAMMAR or not grammar_spec.startswith(MARK):
            return super().compile_grammar(request_type, grammar_spec, stop_token_ids)
        _yield_to_the_model()
        ways = [split_begun(way) for way in grammar_spec.removeprefix(MARK).split(ALTERNATIVE)]
        matchers = [
            llguidance.LLMatcher(self.ll_tokenizer, grammar, log_level=0, limits=parser_limits())
            for grammar, _ in ways
        ]
        # All hold the same answer.
        _, begun = ways[0]
        written = self.ll_tokenizer.tokenize_bytes(begun.encode())
        return Following(matchers, frozenset(self.ll_tokenizer.eos_tokens), written)


class Following(StructuredOutputGrammar):  # type: ignore[misc]
    """One answer on its way through its constraint, or through any of several.

    Attributes:
        failure: why it cannot go on; empty while it can.
    """

    def __init__(
        self, matchers: "Sequence[llguidance.LLMatcher]", ends: frozenset[int], written: Sequence[int] = ()
    ) -> None:
        """`written` are tokens of the text that the answer goes on with, which each constraint permits."""
        self._ways = [_Way(matcher) for matcher in matchers]
        self._written = list(written)
        self._ends = ends
        self._ended = False
        self._taken = 0
        self._credit = STEP_CREDIT_SECONDS
        self.failure = ""
        for way in self._ways:
            way.matcher.consume_tokens(self._written)
        self._look()

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Takes what was sampled; False when it cannot."""
        for token in tokens:
            if self.failure:
                return False
            if token in self._ends:
                if not any(way.matcher.is_accepting() for way in self._open()):
                    self._fail("leads to a place from which no text satisfies it")
                self._ended = True
                continue
            self._spend(self._take, token)
            self._credit = min(self._credit + STEP_SECONDS, STEP_CREDIT_SECONDS)
        return not self.failure

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """The first of the tokens that could be taken, without taking them."""
        drafts = tokens[: tokens.index(-1)] if -1 in tokens else tokens
        if not drafts or self.failure or self._ended:
            return []
        return drafts[: self._spend(self._count, drafts)]

    def rollback(self, num_tokens: int) -> None:
        """Takes the last tokens back."""
        if num_tokens and self._ended:
            self._ended = False
            num_tokens -= 1
        self._taken -= num_tokens
        for way in self._ways:
            way.go_back_to(self._taken)

    def fill_bitmask(self, bitmask: "torch.Tensor", batch_index: int) -> None:
        """Marks what may be sampled next: only an end, where nothing else can be or the answer has failed."""
        self._spend(self._fill, bitmask, batch_index)

    def is_terminated(self) -> bool:
        """Whether the end has been taken."""
        return self._ended

    def reset(self) -> None:
        """Goes back to the beginning."""
        for way in self._ways:
            way.matcher.reset()
            way.matcher.consume_tokens(self._written)
            way.taken, way.closed = 0, False
        self._taken = 0
        self._ended = False

    def _open(self) -> "list[_Way]":
        """The ways that the answer may still be on."""
        return [way for way in self._ways if not way.closed]

    def _take(self, token: int) -> None:
        ways = self._open()
        if len(ways) > 1:
            on = [way for way in ways if way.matcher.validate_tokens([token])]
            # Where all end, one says why.
            ways = on or ways[:1]
            for way in self._open():
                way.closed = way not in ways
        for way in ways:
            way.matcher.consume_token(token)
            way.taken += 1
        self._taken += 1

    def _count(self, tokens: list[int]) -> int:
        return max(int(way.matcher.validate_tokens(tokens)) for way in self._open())

    def _fill(self, bitmask: "torch.Tensor", batch_index: int) -> None:
        first, *others = self._open()
        llguidance_torch.fill_next_token_bitmask(first.matcher, bitmask, batch_index)
        for way in others:
            mask = llguidance_torch.allocate_token_bitmask(1, 32 * bitmask.shape[1])
            llguidance_torch.fill_next_token_bitmask(way.matcher, mask, 0)
            bitmask[batch_index] |= mask[0]

    def _spend(self, act: Any, *arguments: Any) -> Any:
        start = time.thread_time()
        result = act(*arguments)
        self._credit -= time.thread_time() - start
        self._look()
        return result

    def _look(self) -> None:
        for way in self._open():
            if way.matcher.is_error():
                self._fail(explain(way.matcher.get_error()))
        if self._credit < 0:
            self._fail(TOO_SLOW)

    def _fail(self, failure: str) -> None:
        self.failure = self.failure or failure


@dataclass(slots=True)
class _Way:
    """A constraint that an answer may be on its way through.

    Attributes:
        taken: how many of the answer's tokens it has taken.
        closed: whether the answer has left it.
    """

    matcher: "llguidance.LLMatcher"
    taken: int = 0
    closed: bool = False

    def go_back_to(self, taken: int) -> None:
        """Takes back what came behind the answer's first `taken` tokens."""
        if self.taken > taken:
            self.matcher.rollback(self.taken - taken)
            self.taken = taken
        # It was left with the first token that it did not take.
        self.closed = self.closed and self.taken < taken


def _ends(vllm_config: Any) -> list[int]:
    """The tokens that end an answer by the model's generation config."""
    ends = vllm_config.model_config.try_get_generation_config().get("eos_token_id") or []
    return [ends] if isinstance(ends, int) else list(ends)


def _yield_to_the_model() -> None:
    """Lets the model's threads have the processor first, from now on in this thread."""
    if not getattr(_niced, "done", False):
        _niced.done = True
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
