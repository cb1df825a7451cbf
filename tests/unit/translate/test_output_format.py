from typing import Any

import pytest

from octet.engine.types import OutputFormat, OutputKind, ToolChoice, ToolChoiceMode
from octet.errors import InvalidRequestError
from octet.translate.output_format import to_output_format
from octet.translate.schemas import SchemaReader
from octet.translate.values import dict_to_struct
from octet.v1 import chat_service_pb2 as pb

TEXT = pb.OutputFormat(text=pb.TextFormat())
JSON_OBJECT = pb.OutputFormat(json_object=pb.JsonObjectFormat())


def choices(*values: str) -> pb.OutputFormat:
    return pb.OutputFormat(choice=pb.ChoiceFormat(values=values))


def schema(**keywords: Any) -> pb.OutputFormat:
    return pb.OutputFormat(json_schema=dict_to_struct(keywords))


def convert(
    output_format: pb.OutputFormat, mode: ToolChoiceMode = ToolChoiceMode.AUTO
) -> OutputFormat | None:
    return to_output_format(output_format, ToolChoice(mode), SchemaReader())


@pytest.mark.parametrize(
    ("output_format", "expected"),
    [
        (TEXT, None),
        (JSON_OBJECT, OutputFormat(OutputKind.JSON_OBJECT)),
        (schema(minLength=3), OutputFormat(OutputKind.JSON_SCHEMA, {"minLength": 3})),
        (schema(), OutputFormat(OutputKind.JSON_SCHEMA, {})),
        (pb.OutputFormat(regex=r"\p{L}+("), OutputFormat(OutputKind.REGEX, r"\p{L}+(")),
        (pb.OutputFormat(grammar='root ::= "a"'), OutputFormat(OutputKind.GRAMMAR, 'root ::= "a"')),
        (choices("yes", "no"), OutputFormat(OutputKind.CHOICE, ("yes", "no"))),
        (
            pb.OutputFormat(json_schema_text='{"minLength": 3}', free_white_space=True),
            OutputFormat(OutputKind.JSON_SCHEMA, {"minLength": 3}, as_text=True, white_space=True),
        ),
        (
            pb.OutputFormat(json_object=pb.JsonObjectFormat(), free_white_space=True),
            OutputFormat(OutputKind.JSON_OBJECT, white_space=True),
        ),
    ],
)
def test_formats_are_converted(output_format: pb.OutputFormat, expected: OutputFormat | None) -> None:
    assert convert(output_format) == expected


@pytest.mark.parametrize(
    ("output_format", "field", "problem"),
    [
        (pb.OutputFormat(), "output_format", "sets no format"),
        (schema(type="strng"), "output_format.json_schema", "is not a JSON Schema"),
        (pb.OutputFormat(json_schema_text=""), "output_format.json_schema_text", "is not valid JSON"),
        (pb.OutputFormat(json_schema_text="[]"), "output_format.json_schema_text", "is not a JSON object"),
        (pb.OutputFormat(json_schema_text='{"type": 1}'), "output_format.json_schema_text", "(at $.type)"),
        (pb.OutputFormat(regex="a", free_white_space=True), "output_format.free_white_space", "is for JSON"),
        (pb.OutputFormat(free_white_space=True), "output_format.free_white_space", "is for JSON"),
        (pb.OutputFormat(regex=""), "output_format.regex", "has 0 characters, not 1 to 8192"),
        (pb.OutputFormat(regex="x" * 8193), "output_format.regex", "has 8193 characters"),
        (pb.OutputFormat(grammar=""), "output_format.grammar", "has 0 characters, not 1 to 65536"),
        (pb.OutputFormat(grammar="x" * 65537), "output_format.grammar", "has 65537 characters"),
        (choices(), "output_format.choice.values", "has 0 texts, not 1 to 1000"),
        (choices(*["x"] * 1001), "output_format.choice.values", "has 1001 texts"),
        (choices("a", ""), "output_format.choice.values[1]", "has 0 characters, not 1 to 1000"),
        (choices("x" * 1001), "output_format.choice.values[0]", "has 1001 characters"),
    ],
)
def test_wrong_formats(output_format: pb.OutputFormat, field: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        convert(output_format)
    assert caught.value.field == field
    assert problem in caught.value.message


def test_a_schema_as_text_keeps_its_order() -> None:
    form = convert(pb.OutputFormat(json_schema_text='{"properties": {"z": {}, "a": {}, "m": {}}}'))
    assert form is not None
    assert isinstance(form.spec, dict)
    assert list(form.spec["properties"]) == ["z", "a", "m"]


@pytest.mark.parametrize("mode", [ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED])
def test_a_required_call_leaves_no_text_to_constrain(mode: ToolChoiceMode) -> None:
    with pytest.raises(InvalidRequestError, match="tool_choice requires a tool call") as caught:
        convert(JSON_OBJECT, mode)
    assert caught.value.field == "output_format"
    # Free text is what an unset format means.
    assert convert(TEXT, mode) is None
