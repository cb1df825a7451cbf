"""Where two answers part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.engine.vllm.serving.scoring import Answer
from octet.evaluate.comparing import EvaluationError
from octet.evaluate.generate import Comparison, Pair, pair, summarize

TOKENS = st.lists(st.integers(0, 2), max_size=8)


@given(one=TOKENS, other=TOKENS)
def test_answers_part_at_the_first_token_that_differs(one: list[int], other: list[int]) -> None:
    found = pair("q", Answer([1], one, "a"), Answer([1], other, "b"), "x", "y")
    assert (found.prompt, found.first, found.second) == ("q", "a", "b")
    assert found.equal == (one == other)
    assert one[: found.common] == other[: found.common]
    if not found.equal:
        assert one[found.common : found.common + 1] != other[found.common : found.common + 1]


def test_an_answer_that_ends_early_parts_where_it_ends() -> None:
    found = pair("q", Answer([1], [5, 6], "ab"), Answer([1], [5, 6, 7], "abc"), "x", "y")
    assert (found.common, found.equal) == (2, False)


def test_prompts_have_to_be_the_same_tokens() -> None:
    with pytest.raises(EvaluationError, match="y has another chat template than x"):
        pair("q", Answer([1], [5], "a"), Answer([2], [5], "a"), "x", "y")


def test_the_summary_is_over_prompts() -> None:
    pairs = [Pair("p", "a", "b", 3, False), Pair("q", "a", "a", 8, True)]
    assert summarize(pairs) == Comparison(pairs, 0.5, 5.5)
