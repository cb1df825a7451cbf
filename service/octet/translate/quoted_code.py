"""Code that an answer quotes between backticks: nothing in it is a call."""

import re
from enum import Enum, auto

from octet.translate.growing_text import GrowingText, Steps

TICKS = re.compile("`*")
# So many begin a block.
FENCE = 3

_LINE = re.compile(r"[^\n]*\n?")
_PART_OF_LINE = re.compile(r"[^`\n]*")


class _Span(Enum):
    """What is quoted."""

    WORDS = auto()  # a part of a line
    MARK = auto()  # the first line of a fenced block
    BLOCK = auto()  # a fenced block


class QuotedCode:
    """Follows code to its end, once it has begun.

    Attributes:
        ticks: how many backticks began it; 0 outside of code.
    """

    def __init__(self, source: GrowingText) -> None:
        self._source = source
        self.ticks = 0
        self._span = _Span.WORDS

    def begin(self, *, starts_line: bool) -> Steps[None]:
        """Reads the backticks that begin it."""
        self.ticks = len((yield from self._source.run(TICKS)))
        self._span = _Span.MARK if starts_line and self.ticks >= FENCE else _Span.WORDS

    def begin_block(self) -> None:
        """The first line of a block has ended."""
        self._span = _Span.BLOCK

    def end(self) -> None:
        """It was something else, or is over."""
        self.ticks = 0

    def read_on(self, char: str, *, starts_line: bool) -> Steps[None]:
        """Reads a part of it, which begins with `char`."""
        if self._span is _Span.BLOCK and not (starts_line and char == "`"):
            self._source.match(_LINE)
        elif char == "`":
            ticks = len((yield from self._source.run(TICKS)))
            ends = {
                _Span.WORDS: ticks == self.ticks,
                _Span.MARK: True,  # there are none in such a line
                _Span.BLOCK: ticks >= self.ticks,
            }
            if ends[self._span]:
                self.end()
        elif char == "\n":
            self._source.at += 1
            if self._span is _Span.WORDS:
                self.end()
            self._span = _Span.BLOCK
        else:
            self._source.match(_PART_OF_LINE)
