"""Which calls of strict tools are such: those whose arguments are held while they are written."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.engine.types import GenerationRequest, Tool
from octet.translate.strict_calls import (
    MOST_FUNCTIONS,
    HeldArguments,
    strict_functions,
    strict_spellings,
)
from octet.translate.tools import ArgumentsFound, CallFound, TextFound, ToolCallScanner
from tests.unit.translate.written_calls import TEXTS

NAMES = ("f", "g", "h")
STRICT = ("f", "h")
FUNCTIONS = ("h",)

# Where each * stands, held arguments begin.
PLACES = [
    '{"name": "f", "parameters": *{"a": 1}}',
    '{"name":"f", "arguments": *{}}',
    '{"tool_name" \n: "default_api.f", "parameters": *{"a": "\\"}{"}} {"function": "f", "arguments": *{}}',
    'so "name": "f", "parameters": *{}} it is',
    '[{"name": "g", "parameters": {}}, {"name": "f", "parameters": *{"a": [{"b": {}}]}}, {"name": "f"',
    '"name": "name": "f", "parameters": {}}',
    '"name": "}"name": "f", "parameters": {}}',
    '"name": """name": "f", "parameters": *{}}',
    '{"name": "f", "parameters": *{"name": "f", "parameters": {"a": 1}}}',
    '{"name": "f", "parameters": *{"q": "\\"name\\": \\"f\\", \\"parameters\\": {}"}}',
    '{"name": "f","parameters": {}}',
    '{"name": "f", "args": {}}',
    '{"name": "f", "parameters": [{}]}',
    '{"name":      "f", "parameters": {}}',
    "{'name': 'f', 'parameters': {}}",
    '{"name": "ff", "parameters": {}} {"name": "F", "parameters": {}}',
    '{"title": "f", "parameters": {}}',
    "h*(a=1) h (",
    'print(default_api.h*(a=")h(1)", b=[{}]),h*()) xh(1) x.h(1) -h(1) =h*(b={"name": "f"}) h*()h*()',
    'x "name": "h(1)" h*() {"name": "h", "parameters": *{"a": "h(1)"}}h*()',
    "f(a=1)",
    '{"name": "fxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "parameters": {}} "name": "f", "parameters": *{}}',
]


@pytest.mark.parametrize("marked", PLACES)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_places_of_held_arguments(marked: str, size: int) -> None:
    text = marked.replace("*", "")
    held = HeldArguments(strict_spellings(NAMES, STRICT), strict_spellings(NAMES, FUNCTIONS))
    for at in range(0, len(text), size):
        held.feed(text[at : at + size])
    places = [found.start() - number for number, found in enumerate(re.finditer(r"\*", marked))]
    assert [place for place in range(len(text)) if held.begin_at(place)] == places


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("", "a"),
        ("", '"'),
        ("", '"name"'),
        ("", '"name": "'),
        ('{"name"', " "),
        ('{"name": "', "f"),
        ('{"name": "f', "x"),
        ('{"name": "f"', " "),
        ('{"name": "f", "parameters": ', "{"),
        ('{"name": "f", "parameters": {"a": "', "a"),
        ('{"name": "f", "parameters": {"a": "', "\\"),
        ("", '{"name": "f", "parameters": {}}'),
        ("", "h("),
        ('h(a="', ")"),
        ("", "h() "),
    ],
)
def test_little_is_kept_of_an_answer(head: str, rest: str) -> None:
    """And what is kept is all that is looked at again."""
    held = HeldArguments(strict_spellings(NAMES, STRICT), strict_spellings(NAMES, FUNCTIONS))
    for char in head + rest * 2000:
        held.feed(char)
        assert len(held._text) - held._at < 64


def scan(*pieces: str) -> tuple[list[tuple[str, str]], str]:
    """The calls, and the text that is left."""
    scanner = ToolCallScanner(NAMES, strict=STRICT, functions=FUNCTIONS)
    found = [item for piece in pieces for item in scanner.feed(piece)] + scanner.finish()
    calls: list[tuple[str, str]] = []
    for item in found:
        match item:
            case CallFound(_, name):
                calls.append((name, ""))
            case ArgumentsFound(_, text):
                calls[-1] = calls[-1][0], calls[-1][1] + text
    return calls, "".join(item.text for item in found if isinstance(item, TextFound))


F, G, H = ("f", '{"a": 1}'), ("g", '{"a": 1}'), ("h", '{"a": 1}')


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', [F]),
        ('[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {"a": 1}}]', [F, G]),
        ('```json\n{"name": "f", "parameters": {"a": 1}}\n```', [F]),
        ('<tool_call>{"id": "1", "name": "f", "arguments": {"a": 1}}</tool_call>', [F]),
        ('{"type": "function", "function": {"name": "functions.f", "arguments": {"a": 1}}}', [F]),
        ('{"tool_calls": [{"function": "f", "parameters": {"a": 1}}]}', [F]),
        ("g(a=1)", [G]),
        ('{"parameters": {"a": 1}, "name": "g"}', [G]),
        ("h(a=1)", [H]),
        ("g(a=1)\nr = h(a=1)", [G, H]),
        ("```tool_code\nprint(tools.h(a=1))\n```", [H]),
        ("[h(a=1), g(a=1)]", [H, G]),
        ('{"name": "h", "parameters": {"a": 1}}', [H]),
        ("h (a=1)", []),
        # Nothing of this is held.
        ("f(a=1)", []),
        ("[f(a=1)]", []),
        ("[g(a=1), f(a=1)]", [G]),
        ("```tool_code\nprint(f(a=1))\n```", []),
        ('{"parameters": {"a": 1}, "name": "f"}', []),
        ("{'name': 'f', 'parameters': {'a': 1}}", []),
        ('{"name": "f", "parameters":{"a": 1}}', []),
        ('{"name": "f", "args": {"a": 1}}', []),
        ('{"name": "f", "parameters": "{}"}', []),
        ('{"name": "f", "parameters": null}', []),
        ('{"name": "f"}', []),
        ('{"function": {"name": "f"}}', []),
        # What is held is no call where its object is none; what is in it is none either.
        ('{"age": 3, "name": "f", "parameters": {"name": "f", "parameters": {"a": 1}}}', []),
        ('{"age": 3, "name": "f", "parameters": {"a": "[f(a=1)] {\'name\': \'f\', \'args\': {}}"}}', []),
    ],
)
def test_what_is_a_call(text: str, calls: list[tuple[str, str]]) -> None:
    found, rest = scan(text)
    assert found == calls
    for size in (1, 3):
        assert scan(*(text[at : at + size] for at in range(0, len(text), size))) == (found, rest)


def test_everything_is_a_call_where_nothing_is_strict() -> None:
    scanner = ToolCallScanner(NAMES)
    assert scanner.feed("[f(a=1)]") == [CallFound(0, "f"), ArgumentsFound(0, '{"a": 1}')]


PIECES = st.lists(
    st.sampled_from(
        ['{"name": "f", "parameters": ', '{"a": 1}', "}", "{", '"', '"name": "', "f", "f(a=1)", "h(",
         "a=1)", "\n", "[",
         "]", ", ", "```", '{"name": "g", "arguments": {}}', "\\", '"f"', "'",
         "{'name': 'f', 'parameters': {}}"]
    )
    | TEXTS,
    max_size=12,
)  # fmt: skip


OBJECT: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {}, "b": {"type": "object"}},
    "required": ["a"],
}


@pytest.mark.parametrize(
    ("parameters", "keywords"),
    [
        (OBJECT, ["a", "b"]),
        ({**OBJECT, "additionalProperties": False, "title": "T", "description": "d"}, ["a", "b"]),
        ({"type": "object", "properties": {}, "additionalProperties": False}, []),
        ({"type": "object"}, None),
        ({"type": "object", "properties": {}}, None),
        ({**OBJECT, "additionalProperties": True}, None),
        ({**OBJECT, "required": ["c"]}, None),
        ({**OBJECT, "minProperties": 2}, None),
        ({**OBJECT, "anyOf": [{}]}, None),
        ({**OBJECT, "patternProperties": {}}, None),
        ({"type": "object", "properties": {"a b": {}}}, None),
        ({"type": "object", "properties": {"ä": {}}}, None),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}}, None),
    ],
)
def test_whose_calls_are_held_in_pythons_form(parameters: dict[str, Any], keywords: list[str] | None) -> None:
    tools = [Tool("f", "", parameters, strict=True), Tool("g", "", OBJECT)]
    request = GenerationRequest("r", (), tools=tuple(tools))
    assert strict_functions(request) == ({} if keywords is None else {"f": keywords})
    many = [Tool(f"f{i}", "", parameters, strict=True) for i in range(MOST_FUNCTIONS)]
    assert len(strict_functions(replace(request, tools=(*many, tools[1])))) == (keywords is not None) * 8
    assert strict_functions(replace(request, tools=(*many, *tools))) == {}


@given(PIECES, st.data())
def test_no_cut_changes_what_is_found(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    whole, rest = scan(text)
    assert scan(*(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))) == (whole, rest)
