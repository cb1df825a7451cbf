"""The scanner's work grows with the text's length and not faster, whatever the text is and however it is cut.

Work is counted in characters that are looked at or copied, not in seconds.
"""

import random
import re
from itertools import product
from typing import Any

import pytest

from octet.translate import tool_syntax, tools
from octet.translate.tools import ToolCallScanner

NAMES = ("get_weather", "get", "f", "g", "db.query", "send-mail")

# What a text of any length consists of: a head, and what is repeated behind it.
FAMILIES = {
    "name and blanks": ("get_weather", " "),
    "name and lines": ("get_weather", "\n"),
    "blanks": ("", " "),
    "lines": ("", "\n"),
    "indented lines": ("", "\n    "),
    "lines of other white space": ("", "\x1c\u2003\n"),
    "letters": ("", "a"),
    "letters in a bracket": ("f(", "a"),
    "blanks in a bracket": ("f(", " "),
    "keyword and blanks": ("f(a", " "),
    "words in a bracket": ("f(", "a "),
    "names on lines": ("", "f\n"),
    "beginnings of names on lines": ("", "get_w\n"),
    "openings on lines": ("", "f(\n"),
    "openings with keywords": ("", "f(a=\n"),
    "nested openings": ("", "f(a="),
    "complete calls": ("", "f()\n"),
    "calls that are none": ("", "f(1)\n"),
    "prose about calls": ("", "f() x\n"),
    "call and blanks": ("f()", " "),
    "call and returns": ("f()", "\r"),
    "list of calls": ("[", "f(), "),
    "list and blanks": ("[f()", " "),
    "lists": ("", "[f()] "),
    "brackets": ("", "["),
    "braces": ("", "{"),
    "both": ("", "[{"),
    "brackets and blanks": ("", "[ \n"),
    "closed brackets": ("", "[]"),
    "bracket and blanks": ("[", " "),
    "brackets in a call": ("[f(a=", "["),
    "pairs of brackets in a call": ("[f(a=", "[{()}]"),
    "object and blanks": ("{", " "),
    "object's key and blanks": ('{"name"', " "),
    "objects that begin": ("", '{"name": '),
    "objects with a name": ("", '{"name": "f", '),
    "object's unfinished name": ('{"name": "', "f"),
    "object's unfinished key": ('{"', "n"),
    "escaped quotes in a key": ('{"', '\\"'),
    "quoted keys": ("", '{"'),
    "arguments": ('{"name": "f", "parameters": {"a": "', "x"),
    "backslashes in arguments": ('{"name": "f", "parameters": {"a": "', "\\"),
    "brackets in arguments": ('{"name": "f", "parameters": {"a": ', "["),
    "object's end and blanks": ('{"name": "f", "parameters": {}', " "),
    "arguments first": ('{"parameters": {', '"a": {'),
    "unterminated string": ("[f(a='", "x"),
    "unterminated long string": ("[f(a='''", "x"),
    "quotes": ("[f(a=", '"'),
    "mixed quotes": ("[f(a=", "'\""),
    "quotes in a long string": ('[f(a="""', '"" '),
    "escaped quotes": ("[f(a='", "\\'"),
    "backslashes": ("[f(a='", "\\"),
    "backticks": ("", "`"),
    "backticks apart": ("", "` "),
    "fences": ("", "```\n"),
    "marked fences": ("", "```json\n"),
    "fence and letters": ("```", "p"),
    "fence and a long word": ("```", "json"),
    "fence and blanks": ("```json", " "),
    "call in a fence and blanks": ("```python\nf()", "\n"),
    "calls in a fence": ("```python\n", "f()\n"),
    "call in a fence and backticks": ("```python\nf()\n", "``\n"),
    "text behind calls": ("", "f() \n\n x [f()] [x] \n"),
}
LENGTH = 1500


class Counter:
    """Counts characters."""

    def __init__(self) -> None:
        self.characters = 0


class CountedPattern:
    """A regular expression that counts what it looks at: up to the end of what it finds, or to the text's."""

    def __init__(self, pattern: re.Pattern[str], counter: Counter) -> None:
        self._pattern = pattern
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._pattern, name)

        def counted(text: str, at: int = 0) -> Any:
            found = method(text, at)
            # The patterns that are matched in place fail at their first character.
            end = found.end() if found is not None else at if name == "match" else len(text)
            self._counter.characters += 1 + end - at
            return found

        return counted if name in ("match", "search", "fullmatch") else method


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts what every scanner looks at or copies."""
    counter = Counter()
    for name, value in vars(tool_syntax).copy().items():
        if isinstance(value, re.Pattern):
            monkeypatch.setattr(tool_syntax, name, CountedPattern(value, counter))
    quoted = {quote: CountedPattern(pattern, counter) for quote, pattern in tool_syntax._QUOTED.items()}
    monkeypatch.setattr(tool_syntax, "_QUOTED", quoted)

    def count(name: str, length: Any) -> None:
        plain = getattr(ToolCallScanner, name)

        def counted(self: Any, *arguments: Any) -> Any:
            result = plain(self, *arguments)
            counter.characters += length(self, arguments, result)
            return result

        monkeypatch.setattr(ToolCallScanner, name, counted)

    count("_read_waiting", lambda scanner, arguments, result: len(scanner._buffer))
    count("_cut", lambda scanner, arguments, result: len(result))
    count("_uncollect", lambda scanner, arguments, result: len(result))
    count("_text", lambda scanner, arguments, result: len(arguments[0]))
    for name in ("python_call", "json_call"):
        parse = getattr(tools, name)

        def counted(text: str, parse: Any = parse) -> Any:
            counter.characters += len(text)
            return parse(text)

        monkeypatch.setattr(tools, name, counted)
    return counter


def text_of(head: str, repeated: str, length: int) -> str:
    return head + repeated * (1 + length // len(repeated))


def pieces_of(text: str, cut: str) -> list[str]:
    """The text whole, in characters, or cut at random, the same way every time."""
    if cut == "whole":
        return [text]
    if cut == "characters":
        return list(text)
    chance = random.Random(len(text))
    places = sorted(chance.randrange(len(text)) for _ in range(len(text) // 8))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def work(pieces: list[str], counter: Counter) -> int:
    scanner = ToolCallScanner(NAMES)
    counter.characters = 0
    found = [item for piece in pieces for item in scanner.feed(piece)] + scanner.finish()
    assert found or not "".join(pieces).strip()
    return counter.characters


@pytest.mark.parametrize("cut", ["whole", "characters", "random"])
@pytest.mark.parametrize("family", FAMILIES)
def test_work_is_in_proportion_to_the_text(family: str, cut: str, counter: Counter) -> None:
    short, long = (work(pieces_of(text_of(*FAMILIES[family], n), cut), counter) for n in (LENGTH, 4 * LENGTH))
    assert long < 5 * short
    assert long < 4 * LENGTH * 40


@pytest.mark.parametrize("cut", ["whole", "characters"])
def test_work_on_families_one_behind_the_other(cut: str, counter: Counter) -> None:
    """What waits in one family must not be read again for each place of another."""
    length = 300
    pairs = list(product(FAMILIES.values(), repeat=2))
    for (first, one), (second, other) in random.Random(1).sample(pairs, 300):
        text = text_of(first, one, length) + text_of(second, other, length)
        assert work(pieces_of(text, cut), counter) < len(text) * 40, text[:20] + text[-20:]
