"""Text that comes in pieces, and what readers of it are made of.

A reader is a generator that yields wherever it needs more text. What it has read is held until somebody says
what that was, and a reader never goes back: text that turns out to be something else is taken as it is, and
reading goes on behind it. So the work is in proportion to the text, however it is cut.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]


class NoCall(Exception):
    """What was read is no call."""


class CutOff(Exception):
    """The text has ended within something that it began."""


class Words:
    """Words that are looked for, which come letter by letter."""

    def __init__(self, words: Iterable[str]) -> None:
        self._sorted = sorted(set(words))

    def __contains__(self, word: str) -> bool:
        at = bisect_left(self._sorted, word)
        return self._sorted[at : at + 1] == [word]

    def begin_with(self, start: str) -> bool:
        """Whether there is a word that begins with, or is, `start`."""
        at = bisect_left(self._sorted, start)
        return at < len(self._sorted) and self._sorted[at].startswith(start)


class GrowingText:
    """What has come and was not read, with what was read and is held.

    Attributes:
        text: a part of what has come.
        at: up to where it has been read.
        ended: whether no more will come.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._before = 0  # characters that came before `text`
        self._start = 0  # what is held of `text` begins here
        self._held: list[str] = []  # and this comes before it

    @property
    def place(self) -> int:
        """How many characters have been read from the beginning on."""
        return self._before + self.at

    @property
    def held(self) -> int:
        """Characters that have come and are neither taken nor dropped."""
        return sum(map(len, self._held)) + len(self.text) - self._start

    def add(self, piece: str) -> None:
        """Puts the next piece behind what was not read."""
        if self._start < self.at:
            self._held.append(self.text[self._start : self.at])
        self._before += self.at
        self.text = self.text[self.at :] + piece
        self.at = self._start = 0

    def take(self) -> str:
        """What has been read since this or `drop` was called last."""
        self._held.append(self.text[self._start : self.at])
        held = "".join(self._held)
        self.drop()
        return held

    def drop(self) -> None:
        """Forgets what has been read."""
        self._held.clear()
        self._start = self.at

    def peek(self) -> Steps[str]:
        """The next character, or nothing when the text has ended."""
        while self.at == len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def need(self) -> Steps[str]:
        """The next character.

        Raises:
            CutOff: there is none.
        """
        char = yield from self.peek()
        if not char:
            raise CutOff
        return char

    def next(self) -> Steps[str]:
        """The next character, which is read.

        Raises:
            CutOff: there is none.
        """
        char = yield from self.need()
        self.at += 1
        return char

    def skips(self, char: str) -> Steps[bool]:
        """Whether `char` comes next; it is read then."""
        found: bool = (yield from self.peek()) == char
        self.at += found
        return found

    def expect(self, char: str) -> Steps[None]:
        """Reads `char`.

        Raises:
            NoCall: something else comes.
            CutOff: nothing comes.
        """
        if (yield from self.need()) != char:
            raise NoCall
        self.at += 1

    def match(self, pattern: re.Pattern[str]) -> str:
        """Reads what `pattern`, which may be nothing, matches of what has come."""
        match = pattern.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return match[0]

    def run(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Reads all that `pattern`, which is characters of one kind in any number, matches."""
        parts = [self.match(pattern)]
        while self.at == len(self.text) and not self.ended:
            yield
            parts.append(self.match(pattern))
        return "".join(parts)

    def beginning(self, pattern: re.Pattern[str], goes_on: Callable[[str], bool]) -> Steps[str]:
        """Reads as much of what `pattern` matches as may be the beginning of something that is looked for.

        Args:
            pattern: characters of one kind in any number.
            goes_on: whether that is so; never where it is not so for a part.
        """
        found = ""
        while (char := (yield from self.peek())) and pattern.fullmatch(char) and goes_on(found + char):
            self.at += 1
            found += char
        return found

    def word(self, pattern: re.Pattern[str], words: Words) -> Steps[str]:
        """Reads one of `words`, whose characters `pattern` matches.

        Raises:
            NoCall: something else comes.
            CutOff: the beginning of one comes.
        """
        word = yield from self.beginning(pattern, words.begin_with)
        if word in words:
            return word
        raise CutOff if self.ended and self.at == len(self.text) else NoCall
