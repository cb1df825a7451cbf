"""Constraints of requests: the field that is to blame, and the place in it."""

from collections.abc import Iterator
from typing import Any

import pytest

from octet.engine.types import (
    GenerationRequest,
    Message,
    OutputFormat,
    OutputKind,
    Role,
    TextPart,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from octet.engine.vllm.constraints.checker import Checker
from octet.engine.vllm.constraints.request import Constraint, is_constrained, to_constraint, verified
from octet.engine.vllm.constraints.walk import Walk
from octet.errors import InvalidRequestError

MESSAGES = (Message(Role.USER, (TextPart("Hello!"),)),)
NONE: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close()


def formatted(kind: OutputKind, spec: Any = None, **options: bool) -> GenerationRequest:
    return GenerationRequest("r", MESSAGES, output_format=OutputFormat(kind, spec, **options))


def calling(*parameters: dict[str, Any], name: str = "", as_text: bool = False) -> GenerationRequest:
    tools = tuple(Tool(f"f{i}", "", schema, as_text) for i, schema in enumerate(parameters))
    mode = ToolChoiceMode.NAMED if name else ToolChoiceMode.REQUIRED
    return GenerationRequest("r", MESSAGES, tools=tools, tool_choice=ToolChoice(mode, name))


async def constraint(request: GenerationRequest, checker: Checker) -> Constraint:
    return await verified(to_constraint(request), checker.check)


LONG = {"type": "string", "minLength": 3, "maxLength": 1}


@pytest.mark.parametrize(
    ("request_", "field", "sentence"),
    [
        (formatted(OutputKind.JSON_SCHEMA, {"not": {}}), "output_format.json_schema", "(at /not)"),
        (formatted(OutputKind.JSON_SCHEMA, {"if": {}, "then": {}}, as_text=True),
         "output_format.json_schema_text", "(at /if)"),
        (formatted(OutputKind.JSON_SCHEMA,
                   {"type": "object", "properties": {"a/b": LONG}, "required": ["a/b"]}),
         "output_format.json_schema", "(at /properties/a~1b)"),
        (formatted(OutputKind.JSON_SCHEMA, {"$ref": "#/$defs/a", "$defs": {"b": {}, "a": {"anyOf": [LONG]}}}),
         "output_format.json_schema", "(at /$defs/a/anyOf/0)"),
        (formatted(OutputKind.JSON_SCHEMA, {"const": 1, "type": "string"}), "output_format.json_schema",
         "nothing satisfies it: incompatible types"),
        (formatted(OutputKind.REGEX, "("), "output_format.regex", "unclosed group"),
        (formatted(OutputKind.REGEX, "\\"), "output_format.regex", "ends with a backslash"),
        (formatted(OutputKind.GRAMMAR, "root ::= root"), "output_format.grammar", "line 1, column 1"),
        (calling(NONE, {"type": "object", "not": {}}), "tools[1].parameters", "(at /not)"),
        (calling(NONE, {"type": "object", "not": {}}, name="f1", as_text=True), "tools[1].parameters_json",
         "(at /not)"),
        (calling(NONE, {"type": "object", "properties": {"a": LONG}, "required": ["a"]}, name="f1"),
         "tools[1].parameters", "(at /properties/a)"),
        (calling({"type": "object", "properties": {"a": {"pattern": "^(?=b)"}}}), "tools[0].parameters",
         "(at /properties/a)"),
    ],
)  # fmt: skip
async def test_refusals(checker: Checker, request_: GenerationRequest, field: str, sentence: str) -> None:
    assert is_constrained(request_)
    with pytest.raises(InvalidRequestError) as caught:
        await constraint(request_, checker)
    assert caught.value.field == field
    assert sentence in caught.value.message


async def test_calls_are_written_as_models_are_shown_them(checker: Checker) -> None:
    schema = {"type": "object", "properties": {"z": {"const": 1}, "a": {"$ref": "#/$defs/two"}},
              "required": ["a", "z"], "$defs": {"two": {"const": [2, 3]}}}  # fmt: skip
    one = await constraint(calling(schema, NONE), checker)
    assert one.field == "tools"
    for answer, good in (
        ('[{"name": "f0", "parameters": {"z": 1, "a": [2, 3]}}, {"name": "f1", "parameters": {}}]', True),
        ('[{"name": "f1", "parameters": {}}]', True),
        ('[{"name": "f0", "parameters": {"a": [2, 3], "z": 1}}]', False),
        ('[{"name":"f1","parameters":{}}]', False),
        ("[]", False),
    ):
        assert Walk(one.grammar).takes(answer) is good
    named = await constraint(calling(schema, NONE, name="f1"), checker)
    call = '{"name": "f1", "parameters": {}}'
    assert Walk(named.grammar).takes(f"[{call}]")
    assert not Walk(named.grammar).takes(f"[{call}, {call}]")


async def test_tools_that_cannot_be_called_are_not_looked_at(checker: Checker) -> None:
    assert await constraint(calling(NONE, {"type": "object", "not": {}}, name="f0"), checker)


@pytest.mark.parametrize("white_space", [False, True])
async def test_json_is_compact_unless_asked_otherwise(checker: Checker, white_space: bool) -> None:
    for request in (
        formatted(OutputKind.JSON_OBJECT, white_space=white_space),
        formatted(OutputKind.JSON_SCHEMA, {"type": "object"}, white_space=white_space),
    ):
        grammar = (await constraint(request, checker)).grammar
        assert Walk(grammar).takes('{"a":[1,2]}')
        assert Walk(grammar).takes('{"a": [1,\n2]}') is white_space


async def test_what_is_looked_at_afterwards(checker: Checker) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    assert (await constraint(formatted(OutputKind.JSON_SCHEMA, schema), checker)).unique == {None: schema}
    assert (await constraint(calling(NONE, schema), checker)).unique == {"f1": schema}
