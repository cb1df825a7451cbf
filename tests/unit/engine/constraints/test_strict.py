"""Beside strict tools any text may be written; wherever they are held, arguments satisfy their schemas."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet.engine.vllm.constraints.checker import Checker
from octet.engine.vllm.constraints.strict import of_strict_calls
from octet.engine.vllm.constraints.walk import Walk
from octet.translate.strict_calls import MOST_FUNCTIONS, strict_spellings
from octet.translate.tools import ArgumentsFound, CallFound, ToolCallScanner

NAMES = ("f", "ff", "free", "db.query", "now")
SCHEMAS: dict[str, dict[str, Any]] = {
    "f": {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "string", "maxLength": 3}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "db.query": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}},
                 "required": ["n"], "additionalProperties": False},
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}  # fmt: skip
FUNCTIONS = {"f": ["a", "b"], "now": []}


@pytest.fixture(scope="module")
def grammar() -> str:
    return of_strict_calls(strict_spellings(NAMES, SCHEMAS), SCHEMAS, FUNCTIONS, (", ", ": "))


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close()


def calls_in(text: str, size: int = 1000) -> list[tuple[str, str]]:
    scanner = ToolCallScanner(NAMES, strict=tuple(SCHEMAS), functions=tuple(FUNCTIONS))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    calls: list[tuple[str, str]] = []
    for item in [item for piece in pieces for item in scanner.feed(piece)] + scanner.finish():
        match item:
            case CallFound(_, name):
                calls.append((name, ""))
            case ArgumentsFound(_, written):
                calls[-1] = calls[-1][0], calls[-1][1] + written
    return calls


TEXTS = [
    ("", []),
    ("It is late.\n", []),
    ('{"a": 1, "name": "x", "parameters": {"a": 2}}', []),
    ('ff (a=1) and {"name": "free", "parameters": {"a": "z"}}', ["free"]),
    ('f(a="x", b="\\")(")', ["f"]),
    ('```tool_code\nprint(default_api.f(a="y"))\nnow()\n```', ["f", "now"]),
    ('[now(), f(a="x"), ff(a=1)]', ["now", "f", "ff"]),
    ('r = f(a="y")\nprint(r)', []),
    ('It is f(a="x") that is meant, not half(a=1), db.query(n=-1) or f (a=1).', []),
    ("Now", []),
    ('The key is "name": "', []),
    ('It is written {"name": "f', []),
    ('{"name": ""} {"name": "ff", "args": {"a": "z"}} {"name": "fff"}', ["ff"]),
    ('{"name": "f", "parameters": {"a": "x"}}', ["f"]),
    ('[{"name": "f", "arguments": {"a": "y", "b": "\\"}{"}}, {"name": "db.query", "parameters": {"n": 1}}]',
     ["f", "db.query"]),
    ('```json\n{"tool_name" : "default_api.f", "parameters": {"a": "x"}}\n```\nf?', ["f"]),
    ('{"type": "function", "function": {"name": "functions.db.query", "arguments": {"n": 0}}}', ["db.query"]),
    ('{"name": "f", "parameters": {"a": "x"}}' * 40, ["f"] * 40),
]  # fmt: skip


@pytest.mark.parametrize(("text", "calls"), TEXTS)
def test_what_may_be_written(grammar: str, text: str, calls: list[str]) -> None:
    walk = Walk(grammar)
    assert not walk.error
    assert walk.takes(text)
    assert [name for name, _ in calls_in(text)] == calls


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f"}',
        '{"name": "f", "parameters": {"a": "z"}}',
        '{"name": "f", "parameters": {}}',
        '{"name": "f", "parameters": {"b": "x", "a": "x"}}',
        '{"name": "f", "parameters": {"a": "x"}, "id": 1}',
        '{"name": "f","parameters": {"a": "x"}}',
        '{"name": "f", "args": {"a": "x"}}',
        'Then "name"\n:  "tools.f", {}',
        '{"name": "free"} {"function": "db.query", "arguments": {"n": -1}}',
        '{"name": "f", "parameters": {"a": "x"',
        'f(a="z")',
        "f(a='x')",
        'f("x")',
        "f()",
        'f(b="", a="x")',
        'f(a="x",b="")',
        'tools.f(a="x" )',
        "Say f(it).",
        "now(1)",
        '"name": "x" f(a="x"',
    ],
)
def test_what_may_not(grammar: str, text: str) -> None:
    assert not Walk(grammar).takes(text)


PIECES = st.sampled_from(
    ['{"name": "f", "parameters": ', '"name": "f", "arguments": ', '{"name": "db.query", "parameters": ',
     '{"a": "x"}', '{"a": "y", "b": "f(a"}', '{"a": "z"}', '{"n": 3}', "{", "}", "[", "]", ", ", '"', "'",
     "`", "```", "\n", '"name"', ": ", '"f"', "f(a=1)", "f(", 'f(a="x")',
     'a="y")', "now()", "f", '{"name": "',
     '{"name": "free", "parameters": {"q": ',
     "{'name': 'f', 'parameters': {}}", '{"age": 3, ', "print(", ")",
     "<tool_call>", "</tool_call>", "é", "\\"]
)  # fmt: skip


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=10).map("".join), st.integers(1, 9))
def test_calls_of_strict_tools_satisfy_their_schemas(grammar: str, text: str, size: int) -> None:
    """Whatever else a text that may be written holds, and however it comes."""
    if Walk(grammar).takes(text):
        for name, arguments in calls_in(text, size):
            if name in SCHEMAS:
                jsonschema.validate(json.loads(arguments), SCHEMAS[name])


def test_many_strict_tools_compile(checker: Checker) -> None:
    schemas = {f"tool_{i}": {**SCHEMAS["f"], "title": str(i)} for i in range(128)}
    functions = {name: ["a", "b"] for name in list(schemas)[:MOST_FUNCTIONS]}
    grammar = of_strict_calls(strict_spellings(schemas, schemas), schemas, functions, (", ", ": "))
    assert checker.check_now(grammar) == ("", grammar)
    assert Walk(grammar).takes('{"name": "tool_127", "parameters": {"a": "x"}} tool_7(a="x", b="")')
