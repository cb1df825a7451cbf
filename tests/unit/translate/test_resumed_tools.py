"""Calls in an answer that goes on with a text: what is reported is what is new, and calls as a whole."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octet.translate.resumed_tools import ResumedScanner
from octet.translate.tools import ToolCallScanner
from tests.unit.translate.test_tool_forms import SENTENCES, chapters, cut, merged, scan
from tests.unit.translate.written_calls import FORMS, TOOLS, Written


def resume(said: str, *pieces: str, **options: Any) -> list[Any]:
    scanner = ResumedScanner(ToolCallScanner(TOOLS, parameters=TOOLS, **options), said)
    found = [item for piece in pieces for item in scanner.feed(piece)]
    return merged(found + scanner.finish())


def texts(parts: list[Any]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def calls(parts: list[Any]) -> list[Any]:
    return [part for part in parts if isinstance(part, list)]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_new_of_calls(form: str, data: st.DataObject) -> None:
    written: Written = data.draw(FORMS[form])
    before = data.draw(st.just("") | SENTENCES.map(lambda text: text + "\n\n"))
    after = data.draw(st.just("") | SENTENCES.map(lambda text: "\n\n" + text))
    text = before + written.text + after
    at = data.draw(st.integers(0, len(text)))
    whole, said, rest = scan(text), text[:at], text[at:]
    new = resume(said, rest)
    assert calls(new) == calls(whole)[len(calls(whole)) - len(calls(new)) :]
    assert texts(whole).endswith(texts(new))
    assert resume(said, *cut(rest, data)) == resume(said, *rest) == new
    assert calls(resume(said, rest, whole_calls=True)) == calls(new)
    # None is lost: one that was not complete before is new.
    known = len(calls(scan(said, whole_calls=True)))
    assert len(calls(new)) >= len(calls(whole)) - known


@pytest.mark.parametrize("text", chapters("no_tool_calls.txt"))
def test_what_is_new_of_no_calls(text: str) -> None:
    for at in range(len(text) + 1):
        assert resume(text[:at], text[at:]) == [text[at:]] * (at < len(text))


@settings(deadline=None)
@given(SENTENCES, st.data())
def test_what_is_new_of_a_text(text: str, data: st.DataObject) -> None:
    text = (
        data.draw(st.sampled_from(["", " ", "\n", "\n\n"]))
        + text
        + data.draw(st.sampled_from(["", " ", "\n"]))
    )
    at = data.draw(st.integers(0, len(text)))
    assert resume(text[:at], *cut(text[at:], data)) == [text[at:]] * (at < len(text))


def test_a_call_that_was_begun_is_given_as_a_whole() -> None:
    said = 'Well.\n[{"name": "f", "parameters": {"a'
    assert resume(said, '": 1}}, ', '{"name": "f", "parameters": {}}]') == [["f", '{"a": 1}'], ["f", "{}"]]
    assert resume('Well. [{"na', 'me": "f", "parameters": {}}] So') == [["f", "{}"], "So"]


def test_a_whole_call_is_not_given_again() -> None:
    said = '[{"name": "f", "parameters": {"a": 1}}'
    assert resume(said, "]") == []
    assert resume(said, ', {"name": "f", "parameters": {}}]') == [["f", "{}"]]
