"""Calls in every form come back exactly, however they are cut, and nothing else is taken for one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octet.translate.tools import ArgumentsFound, CallFound, Found, TextFound, ToolCallScanner
from tests.unit.translate.written_calls import FORMS, TOOLS, Written, lines, statements


def merged(found: list[Found]) -> list[Any]:
    """Text as it is, and calls as [name, JSON text]."""
    parts: list[Any] = []
    for item in found:
        match item:
            case TextFound(text):
                assert text
                if parts and isinstance(parts[-1], str):
                    parts[-1] += text
                else:
                    parts.append(text)
            case CallFound(index, name):
                assert index == sum(isinstance(part, list) for part in parts)
                parts.append([name, ""])
            case ArgumentsFound(index, text):
                assert index == sum(isinstance(part, list) for part in parts) - 1
                parts[-1][1] += text
    return parts


def scan(*pieces: str, **options: Any) -> list[Any]:
    scanner = ToolCallScanner(TOOLS, parameters=TOOLS, **options)
    found = [item for piece in pieces for item in scanner.feed(piece)]
    return merged(found + scanner.finish())


def loaded(parts: list[Any]) -> list[Any]:
    """Calls' JSON text read; it has to be JSON."""
    return [part if isinstance(part, str) else (part[0], json.loads(part[1])) for part in parts]


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def chapters(name: str) -> list[Any]:
    """The chapters of a corpus: a parameter each, named by its title."""
    text = Path(__file__).with_name(name).read_text()
    found = re.findall(r"^=== (.*)\n((?:(?!=== ).*\n)*)", text, re.MULTILINE)
    assert len(found) == text.count("\n=== ")
    return [pytest.param(body.strip("\n"), id=title) for title, body in found]


@pytest.mark.parametrize("chapter", chapters("tool_calls.txt"))
def test_corpus_of_calls(chapter: str) -> None:
    text, _, listed = chapter.partition("\n---\n")
    expected = [
        json.loads(line) if line.startswith('"') else line.split(" ", 1) for line in listed.splitlines()
    ]
    assert scan(text) == expected
    assert scan(*text) == expected
    assert scan(text, whole_calls=True) == expected
    assert scan(*text, whole_calls=True) == expected


@pytest.mark.parametrize("text", chapters("no_tool_calls.txt"))
def test_corpus_of_what_is_no_call(text: str) -> None:
    assert scan(text) == [text]
    assert scan(*text) == [text]
    assert scan(*text, whole_calls=True) == [text]


WORDS = st.sampled_from(
    [
        *["Let", "me", "I'll", "the", "weather", "get", "f", "print", "a", "is,", "(so)", "so:", "f(x)"],
        *["=", "1", "-", "*", "2.", "`code`", "``f()``", "<", ">", "[1]", "{}", '"', "'", "é", "`{}`"],
    ]
)
# Alone behind tags, "<" is the beginning of others that were cut off, of which nothing is left.
SENTENCES = (
    st.lists(WORDS, min_size=1, max_size=6)
    .map(" ".join)
    .filter(lambda text: text.count("`") % 2 == 0 and text != "<")
)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_calls_come_back_exactly(form: str, data: st.DataObject) -> None:
    written: Written = data.draw(FORMS[form])
    before = data.draw(st.just("") | SENTENCES.map(lambda text: text + "\n\n"))
    after = data.draw(st.just("") | st.just("\n") | SENTENCES.map(lambda text: "\n\n" + text))
    text = before + written.text + after
    expected = [*filter(None, [before.strip()]), *written.calls, *filter(None, [after.strip()])]
    whole = scan(text)
    assert loaded(whole) == expected
    assert scan(*cut(text, data)) == whole
    assert scan(*text) == whole
    assert scan(*cut(text, data), whole_calls=True) == whole
    first = next(at for at, part in enumerate(whole) if isinstance(part, list))
    assert scan(*cut(text, data), one_call=True) == whole[: first + 1]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_calls_of_other_functions_stay_text(form: str, data: st.DataObject) -> None:
    text = data.draw(FORMS[form]).text
    for pieces in ([text], list(text)):
        scanner = ToolCallScanner(["another", "get_"])
        found = [item for piece in pieces for item in scanner.feed(piece)]
        assert merged(found + scanner.finish()) == [text]


OTHER_STATEMENTS = st.sampled_from(
    ["import f", "x = 1", "print(r)", "def f(a):", "    pass", "f(a=x)", "f(a=1).b", "x += f()", "get", "..."]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(statements(), max_size=3), OTHER_STATEMENTS, st.data())
def test_a_block_with_other_statements_stays_text(
    calls: list[Written], other: str, data: st.DataObject
) -> None:
    lines_of_code = [call.text for call in calls]
    lines_of_code.insert(data.draw(st.integers(0, len(calls))), other)
    text = "```python\n" + "\n".join(lines_of_code) + "\n```"
    assert scan(text) == [text]
    assert scan(*cut(text, data)) == [text]


@settings(max_examples=60, deadline=None)
@given(
    lines(), st.sampled_from(["Write\n", ""]), st.sampled_from(["\nfor it.", " for it.", "\nFor it:\n\nf"])
)
def test_lines_in_a_paragraph_stay_text(calls: Written, before: str, after: str) -> None:
    text = before + calls.text + after
    assert scan(text) == [text]
    assert scan(*text) == [text]


@pytest.mark.parametrize("form", ["objects", "list", "lines"])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_cut_off_is_no_text_behind_calls(form: str, data: st.DataObject) -> None:
    written: Written = data.draw(FORMS[form])
    text = written.text[: data.draw(st.integers(0, len(written.text)))]
    parts = scan(text, whole_calls=True)
    calls = [part for part in parts if isinstance(part, list)]
    assert loaded(calls) == written.calls[: len(calls)]
    assert parts == calls or parts == [text]
    assert scan(*cut(text, data), whole_calls=True) == parts
    streamed = scan(*cut(text, data))
    assert [part for part in streamed if isinstance(part, list)][: len(calls)] == calls
