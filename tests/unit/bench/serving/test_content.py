"""Words, pictures, and how many tokens words are."""

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octet.bench.serving.content import WORDS, Scale, picture, text
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.target import Form


@given(st.floats(0, 500), st.floats(0.5, 4), st.integers(1, 100_000))
def test_words_make_the_tokens(overhead: float, per_word: float, tokens: int) -> None:
    """As near as whole words come, and a word at least."""
    scale = Scale(overhead, per_word)
    words = scale.words(tokens)
    made = overhead + per_word * words
    assert abs(made - tokens) <= per_word / 2 + 1e-6 or (words == 1 and made > tokens)


@given(st.floats(0, 500), st.floats(0.5, 4), st.integers(1, 50), st.integers(51, 500))
def test_a_scale_goes_through_what_was_measured(
    overhead: float, per_word: float, few: int, many: int
) -> None:
    measured = [(words, round(overhead + per_word * words)) for words in (few, many)]
    if measured[0][1] == measured[1][1]:
        return
    scale = Scale.through(*measured)
    for words, tokens in measured:
        assert scale.overhead + scale.per_word * words == pytest.approx(tokens, abs=1e-6)


def test_no_scale_where_words_are_no_tokens() -> None:
    with pytest.raises(ValueError, match="72 words are 10 tokens where 8 are 10"):
        Scale.through((8, 10), (72, 10))


def test_content_is_its_own_and_comes_again() -> None:
    order = Order(3, Kind.PICTURE, 40, 5)
    form = Form(pictures=2, picture_side=32, salt="a")
    said, pictures = form.text_and_pictures(order)
    assert (said, pictures) == form.text_and_pictures(order)
    assert len(said.split()) == 40
    assert len(set(pictures)) == 2
    others = [
        Form(pictures=2, picture_side=32, salt="b").text_and_pictures(order),
        form.text_and_pictures(Order(4, Kind.PICTURE, 40, 5)),
    ]
    for other_said, other_pictures in others:
        assert other_said != said
        assert not set(other_pictures) & set(pictures)


def test_texts_have_no_pictures() -> None:
    assert Form().text_and_pictures(Order(0, Kind.TEXT, 4, 5))[1] == []


def test_a_picture_has_its_size() -> None:
    with Image.open(io.BytesIO(picture(96, random.Random(0)))) as opened:
        assert (opened.format, opened.size, opened.mode) == ("PNG", (96, 96), "RGB")


def test_words_are_words() -> None:
    assert len(set(WORDS)) == len(WORDS) > 60
    assert set(text(500, random.Random(0)).split()) <= set(WORDS)
