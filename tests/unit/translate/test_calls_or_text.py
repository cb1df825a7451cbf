"""An answer that is calls or text of a form is told by how it begins."""

import pytest

from octet.translate.calls_or_text import CALLS_BEGIN, CallsOrText
from octet.translate.tools import ArgumentsFound, CallFound, TextFound, ToolCallScanner

F = [CallFound(0, "f"), ArgumentsFound(0, '{"a": 1}')]


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ('[{"name": "f", "parameters": {"a": 1}}]', 1),
        ('[{"name": "f", "parameters": {"a": 1}}, {"name": "f", "parameters": {"a": 1}}]', 2),
        # JSON of a form, whatever it looks like.
        ('{"name":"f","parameters":{"a":1}}', 0),
        ('{"name": "f", "parameters": {"a": 1}}', 0),
        ('[{"name":"f","parameters":{"a":1}}]', 0),
        ('[ {"name": "f", "parameters": {"a": 1}}]', 0),
        ("f(a=1)", 0),
        ("[f(a=1)]", 0),
        ("```json\n{}\n```", 0),
        ("", 0),
        *((CALLS_BEGIN[:length], 0) for length in range(1, len(CALLS_BEGIN))),
        (" \n", 0),
    ],
)
def test_what_an_answer_is(answer: str, calls: int) -> None:
    for size in (1, 2, 5, 1000):
        reader = CallsOrText(ToolCallScanner(["f"]))
        found = [item for at in range(0, len(answer), size) for item in reader.feed(answer[at : at + size])]
        found += reader.finish()
        text = "".join(item.text for item in found if isinstance(item, TextFound))
        assert text == ("" if calls else answer)
        assert sum(isinstance(item, CallFound) for item in found) == calls
        assert not reader.done
        assert not reader.cut_off


def test_text_is_given_as_soon_as_it_is_no_call() -> None:
    reader = CallsOrText(ToolCallScanner(["f"]))
    assert reader.feed('[{"name') == []
    assert reader.feed('":') == []
    assert reader.feed("1") == [TextFound('[{"name":1')]
    assert reader.feed("}]") == [TextFound("}]")]


def test_the_only_call_that_is_wanted_ends_the_answer() -> None:
    reader = CallsOrText(ToolCallScanner(["f"], one_call=True))
    assert reader.feed('[{"name": "f", "parameters": {"a": 1}}, {') == F
    assert reader.done


def test_a_call_that_is_cut_off() -> None:
    reader = CallsOrText(ToolCallScanner(["f"]))
    assert reader.feed('[{"name": "f", "parameters": {"a"')
    assert reader.finish() == []
    assert reader.cut_off
