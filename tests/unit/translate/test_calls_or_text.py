"""An answer that is calls or text of a form is told by how it begins."""

import pytest

from octet.translate.calls_or_text import CALLS_BEGIN, CallsOrText
from octet.translate.resumed_tools import ResumedScanner
from octet.translate.tools import ArgumentsFound, CallFound, TextFound, ToolCallScanner

F = [CallFound(0, "f"), ArgumentsFound(0, '{"a": 1}')]


ANSWERS = pytest.mark.parametrize(
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


@ANSWERS
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


@ANSWERS
def test_an_answer_that_goes_on(answer: str, calls: int) -> None:
    """Cut anywhere: what is new of a text, or the calls that were not whole."""
    for at in range(len(answer) + 1):
        said, rest = answer[:at], answer[at:]
        whole = said.count("1}")
        for size in (1, 3, 1000):
            reader = CallsOrText(ResumedScanner(ToolCallScanner(["f"]), said), said)
            found = [item for i in range(0, len(rest), size) for item in reader.feed(rest[i : i + size])]
            found += reader.finish()
            text = "".join(item.text for item in found if isinstance(item, TextFound))
            assert text == ("" if calls else rest)
            new = [item for item in found if isinstance(item, CallFound)]
            assert [item.index for item in new] == list(range(calls - whole if calls else 0))
            arguments = [item.json for item in found if isinstance(item, ArgumentsFound)]
            assert "".join(arguments) == '{"a": 1}' * len(new)
