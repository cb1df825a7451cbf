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
from octet.engine.vllm.constraints.grammars import split_begun
from octet.engine.vllm.constraints.request import Constraint, is_constrained, to_constraint, verified
from octet.engine.vllm.constraints.walk import Walk
from octet.errors import InvalidRequestError
from octet.translate.calls_or_text import CALLS_BEGIN

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


def choosing(
    *parameters: dict[str, Any], form: OutputFormat | None = None, strict: bool = False, **choice: Any
) -> GenerationRequest:
    """A request whose model may call tools."""
    tools = tuple(Tool(f"f{i}", "", schema, strict=strict) for i, schema in enumerate(parameters))
    return GenerationRequest("r", MESSAGES, tools=tools, tool_choice=ToolChoice(**choice), output_format=form)


def takes(constraint: Constraint, answer: str) -> bool:
    return any(Walk(grammar).takes(answer) for grammar in constraint.grammars)


async def constraint(request: GenerationRequest, checker: Checker) -> Constraint:
    return await verified(to_constraint(request), checker.check)


OBJECT = OutputFormat(OutputKind.JSON_OBJECT)
EMPTY = {"type": "string", "pattern": "^a$", "maxLength": 0}
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
        # Where the model may call tools, and the answer has a form otherwise.
        (choosing({"type": "object", "not": {}}, form=OBJECT), "tools[0].parameters", "(at /not)"),
        (choosing(NONE, {"type": "object", "properties": {"a": LONG}, "required": ["a"]}, form=OBJECT),
         "tools[1].parameters", "(at /properties/a)"),
        (choosing(NONE, form=OutputFormat(OutputKind.JSON_SCHEMA, {"not": {}})),
         "output_format.json_schema", "(at /not)"),
        (choosing(NONE, form=OutputFormat(OutputKind.JSON_SCHEMA, {}, white_space=True)),
         "output_format.json_schema", 'has texts that begin with [{"name": " as calls of tools do'),
        (choosing(NONE, form=OutputFormat(OutputKind.JSON_SCHEMA, {"items": {"type": "object"}}, as_text=True,
                                          white_space=True)),
         "output_format.json_schema_text", "leave free_white_space out"),
        (choosing(NONE, form=OutputFormat(OutputKind.GRAMMAR, "root ::= [^x]*")), "output_format.grammar",
         "as calls of tools do"),
        (choosing(NONE, form=OutputFormat(OutputKind.GRAMMAR, "root ::= root")), "output_format.grammar",
         "line 1, column 1"),
        (choosing(NONE, form=OutputFormat(OutputKind.CHOICE, ("a", '[{"name": "x"'))),
         "output_format.choice.values[1]", "begins with"),
        (choosing(NONE, form=OutputFormat(OutputKind.REGEX, r'\[\{"name": "[a-z]+')), "output_format.regex",
         "nothing satisfies it"),
        (choosing(NONE, form=OutputFormat(OutputKind.REGEX, "(")), "output_format.regex", "unclosed group"),
        # Where it may, and a tool is strict.
        (choosing(NONE, {"type": "object", "not": {}}, strict=True), "tools[1].parameters", "(at /not)"),
        (choosing(NONE, {"type": "object", "properties": {"a": LONG}, "required": ["a"]}, strict=True),
         "tools[1].parameters", "(at /properties/a)"),
        (choosing(NONE, {"type": "object", "properties": {"a": EMPTY}, "required": ["a"]}, strict=True),
         "tools[1].parameters", "nothing satisfies it"),
        (choosing(NONE, {"type": "object", "required": ["a"], "additionalProperties": False}, strict=True),
         "tools[1].parameters", "nothing satisfies it"),
        (choosing({"type": "object", "properties": {"a": {"pattern": "^(?=b)"}}}, strict=True),
         "tools[0].parameters", "(at /properties/a)"),
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


CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
}
CALL = '{"name": "f0", "parameters": {"city": "Oslo"}}'
ITEMS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}


FORMS_WITH_TEXTS = pytest.mark.parametrize(
    ("form", "texts"),
    [
        (OutputFormat(OutputKind.JSON_OBJECT), ['{"name":"f0","parameters":{"city":"Paris"}}', "{}"]),
        (OutputFormat(OutputKind.JSON_OBJECT, white_space=True), [CALL, '{"a": [ 1 ]}']),
        (
            OutputFormat(OutputKind.JSON_SCHEMA, ITEMS),
            ['[{"name":"f0","parameters":{"city":"Paris"}}]', "[]"],
        ),
        (OutputFormat(OutputKind.JSON_SCHEMA, {}), ['[{"name":"f0"}]', "1", '"a"', "[[1]]"]),
        (OutputFormat(OutputKind.JSON_SCHEMA, {"type": "string"}, white_space=True), ['"a"']),
        (OutputFormat(OutputKind.REGEX, r"(.|\n)*"), ["", "a", CALL, '[{"name": ', '[{"name"}]']),
        (OutputFormat(OutputKind.REGEX, r"[0-9]{3}/x"), ["123/x"]),
        (
            OutputFormat(OutputKind.GRAMMAR, 'root ::= "[" item* "]"\nitem ::= "{" [a-z]* "}"'),
            ["[{}]", "[{name}]"],
        ),
        (OutputFormat(OutputKind.CHOICE, ("yes", "[", '[{"name"')), ["yes", "[", '[{"name"']),
    ],
)


@FORMS_WITH_TEXTS
@pytest.mark.parametrize("parallel", [True, False])
async def test_calls_or_an_answer_of_the_form(
    checker: Checker, form: OutputFormat, texts: list[str], parallel: bool
) -> None:
    request = choosing(CITY, NONE, form=form, parallel_calls=parallel)
    assert is_constrained(request)
    held = await constraint(request, checker)
    for text in texts:
        assert takes(held, text)
        assert not text.startswith(CALLS_BEGIN)
    assert takes(held, f"[{CALL}]")
    assert takes(held, f'[{CALL}, {{"name": "f1", "parameters": {{}}}}]') is parallel
    for wrong in (
        f"[{CALL.replace('Oslo', 'Paris')}]",
        f"[{CALL}] ",
        f"[{CALL.replace('f0', 'f2')}]",
        "nonsense",
    ):
        assert not takes(held, wrong) or (wrong == "nonsense" and form.spec == r"(.|\n)*")


@FORMS_WITH_TEXTS
async def test_calls_or_an_answer_of_the_form_that_go_on(
    checker: Checker, form: OutputFormat, texts: list[str]
) -> None:
    """What is written already decides which of the two the answer may still become."""
    made = to_constraint(choosing(CITY, NONE, form=form))
    for text in (*texts, f"[{CALL}]"):
        for said in {text[: len(text) // 3], text[: len(text) // 2], text[:-1], text}:
            held = await verified(made.going_on(said, "messages[1]"), checker.check)
            ways = [split_begun(grammar) for grammar in held.grammars]
            assert {begun for _, begun in ways} == {said}
            assert any(Walk(grammar).takes(text) for grammar, _ in ways)
            assert all(Walk(grammar).begins(said) for grammar, _ in ways)
            assert held.unique == made.unique


@pytest.mark.parametrize(
    ("request_", "said", "permitting"),
    [
        (choosing(CITY, form=OBJECT), "nonsense", "output_format.json_object or tools"),
        (
            choosing(CITY, form=OBJECT),
            f"[{CALL.replace('Oslo', 'Paris')}",
            "output_format.json_object or tools",
        ),
        (choosing(CITY, strict=True), f"So: {CALL.replace('Oslo', 'Paris')}", "tools"),
        (calling(CITY), "So", "tools"),
        (formatted(OutputKind.CHOICE, ("a", "b")), "c", "output_format.choice"),
    ],
)
async def test_what_begins_nothing_that_is_permitted(
    checker: Checker, request_: GenerationRequest, said: str, permitting: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"begins nothing that {permitting} permits") as refused:
        await verified(to_constraint(request_).going_on(said, "messages[1]"), checker.check)
    assert refused.value.field == "messages[1]"


@pytest.mark.parametrize("form", [OBJECT, None])
async def test_a_wrong_schema_is_to_blame_whatever_is_written(
    checker: Checker, form: OutputFormat | None
) -> None:
    wrong = {"type": "string", "pattern": "(?=a)b"}
    request_ = choosing({"type": "object", "properties": {"a": wrong}}, form=form, strict=True)
    with pytest.raises(InvalidRequestError) as refused:
        await verified(to_constraint(request_).going_on('{"a', "messages[1]"), checker.check)
    assert refused.value.field == "tools[0].parameters"


@pytest.mark.parametrize("said", ["", "So: ", 'So: {"name": "f0", "parameters": {"city": "Os', f"[{CALL}, "])
async def test_strict_calls_go_on(checker: Checker, said: str) -> None:
    made = to_constraint(choosing(CITY, strict=True)).going_on(said, "messages[1]")
    [grammar] = (await verified(made, checker.check)).grammars
    assert split_begun(grammar)[1] == said


async def test_without_tools_that_may_be_called_an_answer_has_the_form(checker: Checker) -> None:
    for request in (
        choosing(CITY, form=OBJECT, mode=ToolChoiceMode.NONE),
        choosing(form=OutputFormat(OutputKind.JSON_SCHEMA, ITEMS, white_space=True)),
    ):
        held = await constraint(request, checker)
        assert len(held.grammars) == 1


@pytest.mark.parametrize("mode", [ToolChoiceMode.AUTO, ToolChoiceMode.REQUIRED])
async def test_only_allowed_tools_are_called(checker: Checker, mode: ToolChoiceMode) -> None:
    form = OBJECT if mode is ToolChoiceMode.AUTO else None
    request = choosing(
        CITY, {"type": "object", "not": {}}, NONE, form=form, mode=mode, allowed_names=("f2", "f0")
    )
    held = await constraint(request, checker)
    assert takes(held, f"[{CALL}]")
    assert takes(held, '[{"name": "f2", "parameters": {}}]')
    assert not takes(held, '[{"name": "f1", "parameters": {}}]')


async def test_strict_tools_that_may_not_be_called_are_not_looked_at(checker: Checker) -> None:
    wrong = {"type": "object", "not": {}}
    assert await constraint(choosing(NONE, wrong, strict=True, allowed_names=("f0",)), checker)
    assert not is_constrained(choosing(wrong, strict=True, mode=ToolChoiceMode.NONE))


async def test_what_is_looked_at_afterwards(checker: Checker) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    assert (await constraint(formatted(OutputKind.JSON_SCHEMA, schema), checker)).unique == {None: schema}
    assert (await constraint(calling(NONE, schema), checker)).unique == {"f1": schema}
    form = OutputFormat(OutputKind.JSON_SCHEMA, schema)
    both = await constraint(choosing(NONE, schema, form=form), checker)
    assert both.unique == {None: schema, "f1": schema}
    assert (await constraint(choosing(schema, strict=True), checker)).unique == {"f0": schema}
