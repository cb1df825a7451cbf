import math
import time
from typing import Any

import pytest

from octet.engine.types import Sampling
from octet.errors import InvalidRequestError
from octet.translate import sampling
from octet.translate.sampling import check_unconstrained
from octet.v1.chat_service_pb2 import SamplingParams

VOCABULARY = 1000


def to_sampling(params: SamplingParams) -> Sampling:
    return sampling.to_sampling(params, VOCABULARY)


def test_what_is_unset_stays_unset() -> None:
    assert to_sampling(SamplingParams()) == Sampling()


def test_every_field_arrives() -> None:
    values: dict[str, Any] = {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 40,
        "min_p": 0.125,
        "seed": 2**63 - 1,
        "stop": ("a", "b"),
        "stop_token_ids": (0, 9),
        "n": 3,
        "presence_penalty": -1.5,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.25,
        "ignore_eos": True,
        "min_tokens": 7,
        "logit_bias": {3: -1.5, 999: 100.0},
        "bad_words": ("bad", " worse"),
        "allowed_token_ids": (3, 999),
        "logprobs": True,
        "top_logprobs": 5,
        "prompt_logprobs": 0,
        "include_stop_string": True,
        "skip_special_tokens": False,
        "max_reasoning_tokens": 0,
    }
    assert set(values) == set(SamplingParams.DESCRIPTOR.fields_by_name)
    assert to_sampling(SamplingParams(**values)) == Sampling(**values)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", [1, 2**31 - 1]),
        ("temperature", [0, 2]),
        ("top_p", [1e-6, 1]),
        ("top_k", [0, 1, 2**31 - 1]),
        ("min_p", [0, 1]),
        ("seed", [0, 2**63 - 1]),
        ("n", [1, 16]),
        ("presence_penalty", [-2, 2]),
        ("frequency_penalty", [-2, 2]),
        ("repetition_penalty", [1e-6, 2]),
        ("min_tokens", [0, 2**31 - 1]),
        ("ignore_eos", [False, True]),
        ("stop", [["x"], ["x" * 256], ["x"] * 16]),
        ("stop_token_ids", [[0], [VOCABULARY - 1] * 64]),
        ("logit_bias", [{0: -100}, {i % VOCABULARY: 100 for i in range(1024)}]),
        ("bad_words", [["x"], ["x" * 256], ["x"] * 64]),
        ("allowed_token_ids", [[0], [VOCABULARY - 1] * 1024]),
        ("logprobs", [False, True]),
        ("prompt_logprobs", [0, 20]),
        ("include_stop_string", [False, True]),
        ("skip_special_tokens", [False, True]),
    ],
)
def test_the_ends_of_each_range_are_allowed(name: str, values: list[Any]) -> None:
    for value in values:
        converted = getattr(to_sampling(SamplingParams(**{name: value})), name)
        expected = tuple(value) if isinstance(value, list) else value
        assert converted == (pytest.approx(expected) if isinstance(value, float) else expected)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("max_tokens", 0, "0 is not at least 1"),
        ("max_tokens", -1, "-1 is not at least 1"),
        ("temperature", -0.1, "-0.1 is not 0 to 2"),
        ("temperature", 2.1, "2.1 is not 0 to 2"),
        ("temperature", math.nan, "nan is not 0 to 2"),
        ("temperature", math.inf, "inf is not 0 to 2"),
        ("top_p", 0, "0 is not above 0, at most 1"),
        ("top_p", 1.1, "1.1 is not above 0, at most 1"),
        ("top_p", math.nan, "nan is not above 0, at most 1"),
        ("top_k", -1, "-1 is not at least 0"),
        ("min_p", -0.1, "-0.1 is not 0 to 1"),
        ("min_p", 1.1, "1.1 is not 0 to 1"),
        ("min_p", math.nan, "nan is not 0 to 1"),
        ("seed", -1, "-1 is not at least 0"),
        ("n", 0, "0 is not 1 to 16"),
        ("n", 17, "17 is not 1 to 16"),
        ("presence_penalty", -2.1, "-2.1 is not -2 to 2"),
        ("presence_penalty", math.nan, "nan is not -2 to 2"),
        ("frequency_penalty", 2.1, "2.1 is not -2 to 2"),
        ("frequency_penalty", -math.inf, "-inf is not -2 to 2"),
        ("repetition_penalty", 0, "0 is not above 0, at most 2"),
        ("repetition_penalty", 2.1, "2.1 is not above 0, at most 2"),
        ("repetition_penalty", math.nan, "nan is not above 0, at most 2"),
        ("min_tokens", -1, "-1 is not at least 0"),
        ("stop", ["x"] * 17, "has 17 texts, more than the 16"),
        ("stop_token_ids", [1] * 65, "has 65 ids, more than the 64"),
        ("logit_bias", dict.fromkeys(range(1025), 1.0), "has 1025 entries, more than the 1024"),
        ("bad_words", ["x"] * 65, "has 65 texts, more than the 64"),
        ("allowed_token_ids", [1] * 1025, "has 1025 ids, more than the 1024"),
        ("top_logprobs", 21, "21 is not 0 to 20"),
        ("top_logprobs", -1, "-1 is not 0 to 20"),
        ("top_logprobs", 1, "is of use with logprobs only"),
        ("prompt_logprobs", 21, "21 is not 0 to 20"),
        ("prompt_logprobs", -1, "-1 is not 0 to 20"),
    ],
)
def test_values_out_of_range(name: str, value: Any, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        to_sampling(SamplingParams(**{name: value}))
    assert caught.value.field == f"sampling.{name}"
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("params", "field", "problem"),
    [
        ({"stop": ["a", ""]}, "stop[1]", "has 0 characters, not 1 to 256"),
        ({"stop": ["x" * 257]}, "stop[0]", "has 257 characters, not 1 to 256"),
        ({"stop_token_ids": [3, -1]}, "stop_token_ids[1]", "-1 is no token id; the model's are 0 to 999"),
        ({"stop_token_ids": [1000]}, "stop_token_ids[0]", "1000 is no token id"),
        ({"allowed_token_ids": [3, 1000]}, "allowed_token_ids[1]", "1000 is no token id"),
        ({"logit_bias": {1000: 1.0}}, "logit_bias[1000]", "1000 is no token id"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias[-1]", "-1 is no token id"),
        ({"logit_bias": {7: 100.5}}, "logit_bias[7]", "100.5 is not -100 to 100"),
        ({"logit_bias": {7: math.nan}}, "logit_bias[7]", "nan is not -100 to 100"),
        ({"logit_bias": {7: -math.inf}}, "logit_bias[7]", "-inf is not -100 to 100"),
        ({"bad_words": ["a", ""]}, "bad_words[1]", "has 0 characters, not 1 to 256"),
        ({"bad_words": ["a", " \n"]}, "bad_words[1]", "has white space only"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs", "is of use with logprobs only"),
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens", "3 is more than max_tokens, 2"),
        ({"n": 2, "temperature": 0}, "n", "asks for 2 equal answers"),
    ],
)
def test_wrong_elements_and_contradictions(params: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        to_sampling(SamplingParams(**params))
    assert caught.value.field == f"sampling.{field}"
    assert problem in caught.value.message


def test_top_logprobs_of_nothing_are_none() -> None:
    assert to_sampling(SamplingParams(top_logprobs=0)) == Sampling()


@pytest.mark.parametrize(
    "params", [{"allowed_token_ids": [1]}, {"bad_words": ["a"]}, {"min_tokens": 1}, {"ignore_eos": True}]
)
def test_what_may_exclude_all_that_a_constraint_permits(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="could exclude every token that tool_choice") as caught:
        check_unconstrained(to_sampling(SamplingParams(**params)), "tool_choice")
    assert caught.value.field == f"sampling.{next(iter(params))}"


def test_what_goes_together_with_a_constraint() -> None:
    params = SamplingParams(min_tokens=0, ignore_eos=False, logit_bias={1: 1.0}, stop=["a"], logprobs=True)
    check_unconstrained(to_sampling(params), "output_format")


def test_a_million_stop_strings_are_refused_at_once() -> None:
    params = SamplingParams(stop=["x"] * 1_000_000)
    start = time.process_time()
    with pytest.raises(InvalidRequestError, match="has 1000000 texts"):
        to_sampling(params)
    assert time.process_time() - start < 0.1
