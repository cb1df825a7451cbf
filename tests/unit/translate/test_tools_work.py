"""The scanner's work grows with the text's length and not faster, whatever the text is and however it is cut.

Work is counted in characters that are looked at or copied, not in seconds.
"""

import random
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from octet.translate import quoted_code, tool_syntax, tool_values, tools
from octet.translate.answer_text import AnswerText
from octet.translate.growing_text import GrowingText, Words
from octet.translate.tools import ToolCallScanner

NAMES = ("get_weather", "get", "f", "g", "db.query", "send-mail")
PLACES = [f"p{i}" for i in range(3000)]

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
    "calls by place": ("", "f(1)\n"),
    "a call with many arguments by place": ("f(", "1, "),
    "words that may be variables": ("", "abc\n"),
    "a long variable": ("", "a_"),
    "variables that get nothing": ("", "a = \n"),
    "assigned calls": ("", "r = f()\n"),
    "assigned lists": ("", "r = [f(), g()]\n"),
    "a list that is assigned": ("r = [", "f(), "),
    "a list of what is none": ("r = [", "f(), x, "),
    "prints": ("", "print(f())\n"),
    "a print": ("print(", "f(), "),
    "prints of something else": ("", "print(x)\n"),
    "modules": ("", "default_api.\n"),
    "calls in modules": ("", "default_api.f()\n"),
    "joined calls": ("", "f(); "),
    "semicolons": ("f()", ";"),
    "commas behind an object": ('{"name": "f"}', ","),
    "commas in a list": ("[f()", ","),
    "objects with commas": ("", '{"name": "f"}, '),
    "paragraphs of calls": ("", "f()\n\n"),
    "paragraphs of calls in prose": ("x\n", "f()\n\n"),
    "comments in a block": ("```\n", "# x\n"),
    "a comment": ("```\n#", "x"),
    "comments in a call": ("f(", "# (\n"),
    "comments in calls in a block": ("```\n", "f( # (\n)\n"),
    "slashes in a block": ("```\n", "/"),
    "calls in a block that is none": ("```python\n", "f(1)\n\n"),
    "block that is none": ("```python\nimport x\n", "f()\n\n"),
    "block in another language": ("```bash\n", "[f()]\n"),
    "blocks in another language": ("", "```bash\n[f()]\n```\n"),
    "blocks of calls": ("", "```py\nf()\n```\n"),
    "backticks in lines": ("", "`f()` \n"),
    "a line of backticks": ("x ``", "` "),
    "a long label": ("```", "x"),
    "tags": ("", "<tool_call>"),
    "closing tags": ("<tool_call>f()", "</tool_call>"),
    "tagged calls": ("", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'),
    "blocks in tags": ("", "<tool_call>```\nf()\n```</tool_call>"),
    "blocks in blocks": ("", "<tool_call>```"),
    "tags in a block": ("```\n", "<tool_call>f()</tool_call>\n"),
    "beginnings of tags": ("", "<tool_"),
    "less": ("", "<"),
    "ids": ("", '{"id": "x", '),
    "a long id": ('{"id": "', "x"),
    "a long number": ('{"index": ', "1"),
    "functions": ("", '{"function": '),
    "functions in functions": ("", '{"function": {'),
    "objects as an API has them": ("", '{"id": "x", "function": {"name": "f", "arguments": "{}"}} '),
    "arguments as text": ('{"name": "f", "arguments": "', '{\\"a\\": 1,'),
    "lists of calls in objects": ("", '{"tool_calls": ['),
    "members behind arguments": ('{"name": "f", "arguments": {}', ', "x": [1]'),
    "arguments that are no JSON": ('{"name": "f", "arguments": {', "x: NaN, "),
    "quotes in arguments that are no JSON": ('{"name": "f", "arguments": {x', "\"'"),
    "printed dicts": ("", "{'name': 'f', 'arguments': {'a': True,}} "),
    "a printed dict": ("{'name': 'f', 'arguments': {'a': '", '"'),
    "commas in arguments": ('{"name": "f", "arguments": {"a": [1', ","),
    "numbers": ("f(a=", "1"),
    "a number of everything": ("f(a=", "1_e."),
    "signs": ("f(a=", "-"),
    "tuples": ("f(a=", "("),
    "strings that are one": ("f(a=", "'x' "),
    "raw strings": ("f(a=", "r'\\' "),
    "escapes": ("f(a='", "\\x41\\101\\N{BULLET}\\U00000041"),
    "an escape": ("f(a='\\N{", "A"),
    "keywords": ("f(", "a=1, "),
    "a keyword": ("f(", "from-"),
}
LENGTH = 1500


class Counter:
    """Counts characters."""

    def __init__(self) -> None:
        self.characters = 0


class CountedPattern:
    """A regular expression that counts what it looks at, which is what it finds and a character more."""

    def __init__(self, pattern: re.Pattern[str], counter: Counter) -> None:
        self._pattern = pattern
        self._counter = counter

    def match(self, text: str, at: int = 0) -> re.Match[str] | None:
        return self._counted(self._pattern.match(text, at))

    def fullmatch(self, text: str) -> re.Match[str] | None:
        self._counter.characters += len(text)
        return self._pattern.fullmatch(text)

    def search(self, text: str) -> re.Match[str] | None:
        self._counter.characters += len(text)
        return self._pattern.search(text)

    def _counted(self, found: re.Match[str] | None) -> re.Match[str] | None:
        self._counter.characters += 1 + (len(found[0]) if found else 0)
        return found


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts what every scanner looks at or copies."""
    counter = Counter()
    for module in (quoted_code, tool_syntax, tool_values, tools):
        for name, value in vars(module).copy().items():
            if isinstance(value, re.Pattern):
                monkeypatch.setattr(module, name, CountedPattern(value, counter))

    def count(of: type, name: str, length: Callable[..., int]) -> None:
        plain = getattr(of, name)

        def counted(self: Any, *arguments: Any) -> Any:
            result = plain(self, *arguments)
            counter.characters += length(self, arguments, result)
            return result

        monkeypatch.setattr(of, name, counted)

    count(GrowingText, "add", lambda source, arguments, result: len(source.text))
    count(GrowingText, "take", lambda source, arguments, result: len(result))
    count(GrowingText, "peek", lambda *_: 1)
    count(Words, "begin_with", lambda words, arguments, result: len(arguments[0]))
    count(AnswerText, "add", lambda text, arguments, result: len(arguments[0]))

    plain = tool_syntax.object_of_text

    def object_of_text(text: str) -> str:
        counter.characters += len(text)
        return plain(text)

    monkeypatch.setattr(tool_syntax, "object_of_text", object_of_text)
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
    scanner = ToolCallScanner(NAMES, parameters={"f": PLACES})
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
