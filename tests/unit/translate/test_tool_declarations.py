import pytest

from octet.engine.types import Tool, ToolChoice, ToolChoiceMode
from octet.errors import InvalidRequestError
from octet.translate.schemas import SchemaReader
from octet.translate.tool_declarations import MAX_TOOLS, to_tool_choice, to_tools
from octet.translate.tool_schema import offered
from octet.translate.values import dict_to_struct
from octet.v1 import tool_pb2

_OBJECT = dict_to_struct({"type": "object"})


def convert(*tools: tool_pb2.Tool) -> tuple[Tool, ...]:
    return to_tools(tools, SchemaReader())


def test_tools_are_converted() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 10}},
        "required": ["city"],
    }
    tool = tool_pb2.Tool(name="get_weather", description="The weather.", parameters=dict_to_struct(schema))
    assert convert(tool) == (Tool("get_weather", "The weather.", schema),)


def test_parameters_as_text_keep_their_order() -> None:
    text = '{"type": "object", "properties": {"z": {}, "a": {}}}'
    (tool,) = convert(tool_pb2.Tool(name="f", parameters_json=text))
    assert tool.as_text
    assert list(tool.parameters["properties"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("tool", "problem"),
    [
        (tool_pb2.Tool(parameters_json='{"type": "object"}', parameters=_OBJECT), "is set together with"),
        (tool_pb2.Tool(parameters_json='{"type": "string"}'), 'needs "type": "object"'),
        (tool_pb2.Tool(parameters_json="{"), "is not valid JSON"),
        (tool_pb2.Tool(parameters_json='{"type": "object", "minProperties": -1}'), "less than the minimum"),
    ],
)
def test_parameters_as_text_that_are_wrong(tool: tool_pb2.Tool, problem: str) -> None:
    tool.name = "f"
    with pytest.raises(InvalidRequestError) as caught:
        convert(tool)
    assert caught.value.field == "tools[0].parameters_json"
    assert problem in caught.value.message


def test_a_tool_may_be_strict() -> None:
    free, strict = convert(tool_pb2.Tool(name="f", strict=False), tool_pb2.Tool(name="g", strict=True))
    assert not free.strict
    assert strict.strict


def test_a_tool_without_parameters_takes_no_arguments() -> None:
    (tool,) = convert(tool_pb2.Tool(name="now"))
    assert tool.parameters == {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize("name", ["f", "a.b-c_D9", "x" * 64])
def test_names_that_are_allowed(name: str) -> None:
    assert convert(tool_pb2.Tool(name=name))[0].name == name


@pytest.mark.parametrize("name", ["", "x" * 65, "get weather", "f()", "größe", "f\n", "a/b"])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not 1 to 64 characters out of letters") as caught:
        convert(tool_pb2.Tool(name="f"), tool_pb2.Tool(name=name))
    assert caught.value.field == "tools[1].name"


def test_names_are_unique() -> None:
    with pytest.raises(InvalidRequestError, match="'f' is the name of an earlier tool") as caught:
        convert(tool_pb2.Tool(name="f"), tool_pb2.Tool(name="g"), tool_pb2.Tool(name="f"))
    assert caught.value.field == "tools[2].name"


def test_their_number_is_limited() -> None:
    tools = [tool_pb2.Tool(name=f"f{i}") for i in range(MAX_TOOLS + 1)]
    assert len(convert(*tools[:-1])) == MAX_TOOLS
    with pytest.raises(
        InvalidRequestError, match="has 129 tools, more than the 128 of one request"
    ) as caught:
        convert(*tools)
    assert caught.value.field == "tools"


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({}, 'needs "type": "object"'),
        ({"type": "string"}, 'needs "type": "object"'),
        ({"type": ["object", "null"]}, 'needs "type": "object"'),
        ({"type": "objekt"}, "is not a JSON Schema of draft 2020-12"),
    ],
)
def test_parameters_that_are_no_schema_of_an_object(parameters: dict[str, object], problem: str) -> None:
    tool = tool_pb2.Tool(name="f", parameters=dict_to_struct(parameters))
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        convert(tool)
    assert caught.value.field == "tools[0].parameters"


Choice = tool_pb2.ToolChoice
UNKNOWN = Choice.FromString(b"\x08\x63")  # mode 99, as a newer client could send it
TOOLS = (Tool("f", "", {}), Tool("g", "", {}))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (tool_pb2.ToolChoice(), ToolChoice(ToolChoiceMode.AUTO)),
        (tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_AUTO), ToolChoice(ToolChoiceMode.AUTO)),
        (tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_NONE), ToolChoice(ToolChoiceMode.NONE)),
        (tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_REQUIRED), ToolChoice(ToolChoiceMode.REQUIRED)),
        (
            tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_NAMED, name="g"),
            ToolChoice(ToolChoiceMode.NAMED, "g"),
        ),
        (Choice(allowed_names=["g"]), ToolChoice(ToolChoiceMode.AUTO, allowed_names=("g",))),
        (
            Choice(mode=Choice.MODE_REQUIRED, allowed_names=["g", "f"]),
            ToolChoice(ToolChoiceMode.REQUIRED, allowed_names=("g", "f")),
        ),
    ],
)
def test_choices_are_converted(choice: tool_pb2.ToolChoice, expected: ToolChoice) -> None:
    assert to_tool_choice(choice, TOOLS) == expected


@pytest.mark.parametrize("mode", ["MODE_UNSPECIFIED", "MODE_AUTO", "MODE_NONE"])
def test_choices_that_need_no_tools(mode: str) -> None:
    to_tool_choice(tool_pb2.ToolChoice(mode=mode), ())


@pytest.mark.parametrize(
    ("choice", "tools", "field", "problem"),
    [
        (UNKNOWN, TOOLS, "mode", "99 is not a mode"),
        (Choice(mode=Choice.MODE_NAMED), TOOLS, "name", "MODE_NAMED needs the name of a tool"),
        (
            Choice(mode=Choice.MODE_NAMED, name="h"),
            TOOLS,
            "name",
            "'h' is not the name of one of the request's",
        ),
        (Choice(mode=Choice.MODE_NAMED, name="f"), (), "name", "'f' is not the name of one of the request's"),
        (Choice(mode=Choice.MODE_AUTO, name="f"), TOOLS, "name", "the mode is not MODE_NAMED"),
        (Choice(mode=Choice.MODE_REQUIRED, name="f"), TOOLS, "name", "the mode is not MODE_NAMED"),
        (Choice(name="f"), TOOLS, "name", "the mode is not MODE_NAMED"),
        (Choice(mode=Choice.MODE_REQUIRED), (), "mode", "the request has no tools"),
        (Choice(allowed_names=["f", "h"]), TOOLS, "allowed_names[1]", "'h' is not the name of one of"),
        (Choice(allowed_names=["F"]), TOOLS, "allowed_names[0]", "'F' is not the name of one of"),
        (Choice(allowed_names=[""]), TOOLS, "allowed_names[0]", "'' is not the name of one of"),
        (Choice(allowed_names=["f"]), (), "allowed_names[0]", "'f' is not the name of one of"),
        (Choice(allowed_names=["g", "f", "g"]), TOOLS, "allowed_names[2]", "'g' is in the list already"),
        (Choice(allowed_names=["x" * 9000]), TOOLS, "allowed_names[0]", "'" + "x" * 64 + "' is not"),
        (
            Choice(mode=Choice.MODE_REQUIRED, allowed_names=["f", ""]),
            TOOLS,
            "allowed_names[1]",
            "'' is not the name of one of",
        ),
        (
            Choice(mode=Choice.MODE_NAMED, name="f", allowed_names=["f"]),
            TOOLS,
            "allowed_names",
            "MODE_NAMED leaves no choice of tools",
        ),
        (
            Choice(mode=Choice.MODE_NONE, allowed_names=["f"]),
            TOOLS,
            "allowed_names",
            "MODE_NONE leaves no choice of tools",
        ),
    ],
)
def test_contradictory_choices(choice: Choice, tools: tuple[Tool, ...], field: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        to_tool_choice(choice, tools)
    assert caught.value.field == f"tool_choice.{field}"


@pytest.mark.parametrize(
    ("choice", "places"),
    [
        (ToolChoice(), [0, 1]),
        (ToolChoice(ToolChoiceMode.REQUIRED), [0, 1]),
        (ToolChoice(ToolChoiceMode.NAMED, "g"), [1]),
        (ToolChoice(ToolChoiceMode.NONE), []),
        (ToolChoice(allowed_names=("g",)), [1]),
        (ToolChoice(ToolChoiceMode.REQUIRED, allowed_names=("g", "f")), [0, 1]),
    ],
)
def test_what_a_choice_leaves(choice: ToolChoice, places: list[int]) -> None:
    assert offered(TOOLS, choice) == places


def test_parallel_calls_are_allowed_unless_switched_off() -> None:
    tools = convert(tool_pb2.Tool(name="f"))
    required = tool_pb2.ToolChoice.MODE_REQUIRED
    for given, expected in ((None, True), (True, True), (False, False)):
        choice = to_tool_choice(tool_pb2.ToolChoice(mode=required, parallel_calls=given), tools)
        assert choice == ToolChoice(ToolChoiceMode.REQUIRED, "", expected)
