"""Python functions as tools."""

import dataclasses
import json
from typing import Annotated, Literal

import pytest
from PIL import Image
from pydantic import Field, TypeAdapter

from octet.client import Answer, ToolCall, ToolRoundsExceededError, user
from octet.client.functions import ArgumentsError, Toolbox, ToolConversation
from octet.translate.values import struct_to_dict
from octet.v1 import chat_service_pb2, content_pb2, tool_pb2


def get_weather(
    city: Annotated[str, Field(description="A city's name.")], unit: Literal["c", "f"] = "c", days: int = 1
) -> dict[str, object]:
    """Get the weather
    in a city.

    Not for the model to read.
    """
    return {"city": city, "unit": unit, "days": days}


def no_arguments() -> int:
    return 7


def positional(city: str, /) -> str:
    return city


def breaks(number: int) -> int:
    return TypeAdapter(int).validate_python("no number")


@dataclasses.dataclass
class Sky:
    clouds: int


def returns(kind: str) -> object:
    return {"text": "plain", "list": [1, "é"], "dataclass": Sky(3), "none": None}[kind]


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall("call_1", name, json.dumps(arguments))


def answer(*, asks: bool) -> Answer:
    part = content_pb2.Part(
        tool_call=tool_pb2.ToolCall(id="call_1", name="no_arguments", arguments_json="{}")
    )
    reason = chat_service_pb2.FINISH_REASON_TOOL_CALLS if asks else chat_service_pb2.FINISH_REASON_STOP
    message = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[part] if asks else [])
    candidate = chat_service_pb2.Candidate(message=message, finish_reason=reason)
    return Answer(chat_service_pb2.ChatResponse(candidates=[candidate]))


def test_declaration_comes_from_hints_and_docstring() -> None:
    [declared] = Toolbox([get_weather]).tools
    parameters = json.loads(declared.parameters_json)
    assert (declared.name, declared.description) == ("get_weather", "Get the weather in a city.")
    assert parameters["required"] == ["city"]
    assert list(parameters["properties"]) == ["city", "unit", "days"]
    assert parameters["properties"]["city"]["description"] == "A city's name."
    assert parameters["properties"]["unit"]["enum"] == ["c", "f"]
    assert parameters["properties"]["days"]["type"] == "integer"


def test_calls_with_converted_and_default_arguments() -> None:
    box = Toolbox([get_weather, no_arguments])
    assert box.call(call("get_weather", city="Oslo", days=2)) == {"city": "Oslo", "unit": "c", "days": 2}
    assert box.call(call("no_arguments")) == 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (call("get_weather"), "city: "),
        (call("get_weather", city="Oslo", unit="k"), "unit: "),
        (call("get_weather", city="Oslo", planet="Mars"), "planet: "),
        (call("get_time"), "there is no function get_time"),
        (ToolCall("call_1", "get_weather", "{"), "Invalid JSON"),
    ],
)
def test_wrong_arguments_are_told_apart(wrong: ToolCall, message: str) -> None:
    with pytest.raises(ArgumentsError, match=message):
        Toolbox([get_weather]).call(wrong)


def test_what_a_function_raises_is_not_the_models_fault() -> None:
    with pytest.raises(ValueError, match="valid integer") as raised:
        Toolbox([breaks]).call(call("breaks", number=1))
    assert not isinstance(raised.value, ArgumentsError)


def test_positional_parameters_make_no_tool() -> None:
    with pytest.raises(TypeError, match="positional: parameters that can be given by name"):
        Toolbox([positional])


@pytest.mark.parametrize(
    ("kind", "text", "data"),
    [
        ("text", "plain", None),
        ("list", '[1, "é"]', None),
        ("none", "null", None),
        ("dataclass", "", {"clouds": 3}),
    ],
)
def test_results(kind: str, text: str, data: object) -> None:
    run = ToolConversation("hi", [returns], 1, {})
    asked = call("returns", kind=kind)
    run.note(asked, run.toolbox.call(asked))
    result = run.turns[-1].parts[0].tool_result  # type: ignore[union-attr]
    assert result.call_id == "call_1"
    assert result.text == text
    assert (struct_to_dict(result.data) if result.HasField("data") else None) == data


PICTURE = Image.new("RGB", (2, 1), "red")


def shows(kind: str) -> object:
    return {
        "alone": PICTURE,
        "with text": ("a shot", PICTURE),
        "with data": [PICTURE, {"page": 2}],
        "two, and two": [PICTURE, 1, PICTURE, 2],
        "none": [1, 2],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "text", "data", "pictures"),
    [
        ("alone", "", None, 1),
        ("with text", "a shot", None, 1),
        ("with data", "", {"page": 2}, 1),
        ("two, and two", "[1, 2]", None, 2),
        ("none", "[1, 2]", None, 0),
    ],
)
def test_pictures_that_a_function_gives(kind: str, text: str, data: object, pictures: int) -> None:
    run = ToolConversation("hi", [shows], 1, {})
    asked = call("shows", kind=kind)
    run.note(asked, run.toolbox.call(asked))
    first, *others = run.turns[-1].parts  # type: ignore[union-attr]
    assert first.tool_result.text == text
    given = first.tool_result.data
    assert (struct_to_dict(given) if first.tool_result.HasField("data") else None) == data
    assert [part.WhichOneof("kind") for part in others] == ["image"] * pictures


def test_functions_may_be_strict() -> None:
    assert not any(tool.strict for tool in ToolConversation("hi", [returns], 1, {}).options["tools"])
    strict = ToolConversation("hi", [returns, shows], 1, {}, strict=True)
    assert all(tool.strict for tool in strict.options["tools"])


def test_a_forced_choice_holds_for_the_first_answer_only() -> None:
    run = ToolConversation([user("hi")], [no_arguments], 2, {"tool_choice": "required", "seed": 1})
    assert run.options["tool_choice"] == "required"
    assert run.take(answer(asks=True))
    assert "tool_choice" not in run.options
    assert run.options["seed"] == 1
    assert not run.take(answer(asks=False))


def test_too_many_rounds() -> None:
    run = ToolConversation("hi", [no_arguments], 1, {})
    assert run.take(answer(asks=True))
    with pytest.raises(ToolRoundsExceededError, match="more than 1 times") as raised:
        run.take(answer(asks=True))
    assert raised.value.run.turns == run.turns
