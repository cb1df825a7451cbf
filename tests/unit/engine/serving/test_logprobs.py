"""vLLM's log probabilities in the service's terms."""

from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.logprobs import FlatLogprobs

from octet.engine.types import Sampling, TokenLogprob
from octet.engine.vllm.serving.logprobs import check_prompt_logprobs, to_positions
from octet.errors import InvalidRequestError

VOCABULARY: Any = SimpleNamespace(
    text=lambda token_id: f"t{token_id}", data=lambda token_id: f"t{token_id}".encode()
)


def position(logprobs: FlatLogprobs, ids: list[int], values: list[float], rank: int) -> None:
    """As vLLM's processor adds one: the chosen token, then the most probable ones."""
    logprobs.append_fast(ids, values, chain((rank,), range(1, len(ids))), [None] * len(ids))


def token(token_id: int, logprob: float, rank: int) -> TokenLogprob:
    return TokenLogprob(token_id, f"t{token_id}", f"t{token_id}".encode(), logprob, rank)


@pytest.mark.parametrize("merged", [False, True])
def test_positions(merged: bool) -> None:
    steps = FlatLogprobs()
    position(steps, [7, 7, 8], [-0.1, -0.1, -2.0], 1)
    position(steps, [9, 7, 8], [-5.0, -0.2, -1.0], 40)
    position(steps, [8, 7, 8], [-0.7, -0.7, -0.7], 2)
    if merged:
        # As vLLM merges what a slow reader has not fetched.
        steps, rest = steps[:1], steps[1:]
        steps.extend(rest)
    first, second, third = to_positions(steps, VOCABULARY, 2)
    assert first.chosen == token(7, -0.1, 1)
    assert first.top == (token(7, -0.1, 1), token(8, -2.0, 2))
    assert second.chosen == token(9, -5.0, 40)
    assert second.top == (token(7, -0.2, 1), token(8, -1.0, 2))
    assert third.chosen == token(8, -0.7, 2)
    assert third.top == (token(7, -0.7, 1), token(8, -0.7, 2))


def test_a_prompts_first_token_and_no_top() -> None:
    prompt = FlatLogprobs()
    prompt.append(None)
    position(prompt, [7], [-0.5], 3)
    none, chosen = to_positions(prompt, VOCABULARY, 0)
    assert (none.chosen, none.top) == (None, ())
    assert (chosen.chosen, chosen.top) == (token(7, -0.5, 3), ())


def test_the_limit_of_prompt_logprobs() -> None:
    check_prompt_logprobs(Sampling(), 10**9)
    check_prompt_logprobs(Sampling(prompt_logprobs=0), 65536)
    check_prompt_logprobs(Sampling(prompt_logprobs=1, n=2), 16384)
    with pytest.raises(InvalidRequestError, match="asks for 65540 log probabilities") as raised:
        check_prompt_logprobs(Sampling(prompt_logprobs=1, n=2), 16385)
    assert raised.value.field == "sampling.prompt_logprobs"
