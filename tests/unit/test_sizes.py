"""Lengths in words."""

import pytest

from octet.sizes import in_words


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (19120, "19.1 kB"),
        (999_949, "1000 kB"),
        (999_960, "1.00 MB"),
        (123_456_789, "123 MB"),
        (8_600_000_000, "8.60 GB"),
        (1_340_000_000_000, "1.34 TB"),
        (5e18, "5000000 TB"),
    ],
)
def test_lengths_in_words(length: float, words: str) -> None:
    assert in_words(length) == words
