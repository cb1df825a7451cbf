"""Lengths: what is read, and what is drawn."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.bench.serving.lengths import Fixed, Lognormal, Uniform, parse

TOKENS = st.integers(1, 100_000)


@given(TOKENS, st.integers())
def test_fixed(tokens: int, seed: int) -> None:
    assert parse(str(tokens)) == Fixed(tokens)
    assert Fixed(tokens).draw(random.Random(seed)) == tokens


@given(TOKENS, TOKENS, st.integers())
def test_uniform(one: int, other: int, seed: int) -> None:
    least, most = sorted((one, other))
    length = parse(f"uniform:{least},{most}")
    assert length == Uniform(least, most)
    assert least <= length.draw(random.Random(seed)) <= most


@given(TOKENS, st.floats(0, 5), TOKENS, st.integers())
def test_lognormal(median: int, sigma: float, most: int, seed: int) -> None:
    length = parse(f"lognormal:{median},{sigma},{most}")
    assert length == Lognormal(median, sigma, most)
    assert 1 <= length.draw(random.Random(seed)) <= most


def test_lognormal_has_its_median_and_its_tail() -> None:
    chance = random.Random(1)
    drawn = [Lognormal(200, 0.8, 10**6).draw(chance) for _ in range(4000)]
    assert statistics.median(drawn) == pytest.approx(200, rel=0.05)
    above = sum(length > 200 * 2.718**0.8 for length in drawn) / len(drawn)
    assert above == pytest.approx(0.159, abs=0.03)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no length in tokens; give 128, uniform"),
        ("many", "'many' is no length"),
        ("0", "'0': 0 is less than 1 token"),
        ("-5", "'-5': -5 is less than 1 token"),
        ("1.5", "'1.5' is no length"),
        ("uniform:8", "'uniform:8' is no length"),
        ("uniform:8,4", "'uniform:8,4': 8 is more than 4"),
        ("uniform:0,4", "0 is less than 1 token"),
        ("uniform:1,2,3", "is no length"),
        ("lognormal:100,1", "is no length"),
        ("lognormal:100,nan,200", "nan is not between 0 and 5"),
        ("lognormal:100,-1,200", "-1 is not between 0 and 5"),
        ("lognormal:0,1,200", "0 is less than 1 token"),
        ("normal:1,2", "'normal:1,2' is no length"),
        (":5", "':5' is no length"),
    ],
)
def test_what_is_no_length(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert sentence in str(error.value)
