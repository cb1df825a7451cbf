"""Windows over texts: every token is scored once, with as much context as fits."""

from hypothesis import given
from hypothesis import strategies as st

from octet.evaluate.windows import Window, sample, split_documents, windows

BOS = 99


def test_a_short_text_is_one_window() -> None:
    assert list(windows([1, 2, 3], [BOS], 10, 5)) == [Window([BOS, 1, 2, 3], 3)]
    assert list(windows([BOS, 1, 2, 3], [BOS], 10, 5)) == [Window([BOS, 1, 2, 3], 3)]


def test_without_an_opening_the_first_token_is_context() -> None:
    assert list(windows([1, 2, 3], [], 10, 5)) == [Window([1, 2, 3], 2)]
    assert list(windows([1], [], 10, 5)) == []
    assert list(windows([], [BOS], 10, 5)) == []


def test_a_window_slides() -> None:
    assert list(windows([1, 2, 3, 4, 5, 6, 7], [BOS], 5, 2)) == [
        Window([BOS, 1, 2, 3, 4], 4),
        Window([BOS, 3, 4, 5, 6], 2),
        Window([BOS, 4, 5, 6, 7], 1),
    ]


@given(
    count=st.integers(0, 200),
    opening=st.sampled_from([[], [BOS]]),
    length=st.integers(3, 50),
    data=st.data(),
)
def test_every_token_is_scored_once_and_in_order(
    count: int, opening: list[int], length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, length - len(opening) - 1))
    tokens = list(range(1000, 1000 + count))
    found = list(windows(tokens, opening, length, stride))
    scored = [token for window in found for token in window.tokens[-window.scored :]]
    assert scored == (tokens if opening else tokens[1:])
    for window in found:
        assert window.tokens[: len(opening)] == opening
        assert len(window.tokens) <= length
        assert window.scored < len(window.tokens)


@given(total=st.integers(0, 50), count=st.integers(0, 60), seed=st.integers(0, 5))
def test_a_sample_is_of_different_windows_in_their_order(total: int, count: int, seed: int) -> None:
    whole = [Window([number], 1) for number in range(total)]
    found = sample(iter(whole), total, count, seed)
    assert len(found) == (min(count, total) if count else total)
    assert found == [window for window in whole if window in found]
    assert found == sample(whole, total, count, seed)


def test_another_seed_draws_others() -> None:
    whole = [Window([number], 1) for number in range(1000)]
    assert len({tuple(w.tokens[0] for w in sample(whole, 1000, 10, seed)) for seed in range(20)}) == 20


def test_documents() -> None:
    text = "a\n%%\nb\nc\n%%\n%%\nd %%\n"
    assert split_documents(text, "%%") == ["a\n", "b\nc\n", "d %%\n"]
    assert split_documents(text, None) == [text]
    assert split_documents("", None) == split_documents("", "%%") == []
