"""Requests out of Python values."""

import json
from pathlib import Path

import pytest
from PIL import Image

from octet.client import Answer, assistant, joined, tool, tool_result, user
from octet.client.requests import ChatOptions, SamplingOptions, chat_request, json_schema
from octet.v1 import chat_service_pb2, content_pb2, tool_pb2


def test_sampling_options_are_the_protos() -> None:
    fields = {field.name for field in chat_service_pb2.SamplingParams.DESCRIPTOR.fields}
    assert set(SamplingOptions.__annotations__) == fields


def test_unset_options_stay_unset() -> None:
    request = chat_request("hi", {})
    assert not request.HasField("sampling")
    assert not request.HasField("tool_choice")
    assert not request.HasField("output_format")
    assert request.model == ""
    assert len(request.request_id) == 32


def test_zero_is_a_value() -> None:
    request = chat_request("hi", {"temperature": 0.0, "seed": 0})
    assert request.sampling.HasField("temperature")
    assert request.sampling.HasField("seed")
    assert not request.sampling.HasField("max_tokens")


def test_pictures_come_before_the_text() -> None:
    request = chat_request("what?", {"images": [b"1", b"2"], "system": "Be brief."})
    first, second = request.messages
    assert first.role == content_pb2.ROLE_SYSTEM
    assert [part.WhichOneof("kind") for part in second.parts] == ["image", "image", "text"]


def test_decoded_pictures_go_as_png() -> None:
    [part] = user(images=[Image.new("RGBA", (2, 2))]).parts
    assert part.image.mime_type == "image/png"
    assert part.image.data.startswith(b"\x89PNG")


def test_missing_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        user("what?", images=[tmp_path / "none.png"])


def test_pictures_go_with_a_text_only() -> None:
    with pytest.raises(ValueError, match="images go with a text"):
        chat_request([user("what?")], {"images": [b"1"]})


def test_an_answer_is_a_turn() -> None:
    response = chat_service_pb2.ChatResponse()
    response.candidates.add(message=assistant("b"))
    request = chat_request([user("a"), Answer(response), user("c")], {})
    assert [message.parts[0].text for message in request.messages] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [
        ("auto", tool_pb2.ToolChoice.MODE_AUTO, ""),
        ("none", tool_pb2.ToolChoice.MODE_NONE, ""),
        ("required", tool_pb2.ToolChoice.MODE_REQUIRED, ""),
        ("f", tool_pb2.ToolChoice.MODE_NAMED, "f"),
    ],
)
def test_tool_choice(choice: str, mode: tool_pb2.ToolChoice.Mode, name: str) -> None:
    request = chat_request("hi", {"tool_choice": choice})
    assert request.tool_choice == tool_pb2.ToolChoice(mode=mode, name=name)


def test_tools_in_both_common_shapes() -> None:
    plain = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert tool(plain) == tool({"type": "function", "function": plain})
    assert not tool({"name": "g"}).parameters_json


def test_schemas_keep_their_order() -> None:
    schema = {"type": "object", "properties": {"reasoning": {}, "answer": {}}, "required": ["reasoning"]}
    assert json.loads(tool({"name": "f", "parameters": schema}).parameters_json) == schema
    form = json_schema(schema, free_white_space=True)
    assert list(json.loads(form.json_schema_text)["properties"]) == ["reasoning", "answer"]
    assert form.free_white_space
    with pytest.raises(TypeError, match="set is not a JSON value"):
        json_schema({"enum": {1}})


@pytest.mark.parametrize("source", [{"name": 7}, {"name": "f", "parameters": 7}, {"function": "f"}])
def test_tools_of_the_wrong_type(source: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        tool(source)


def test_tool_results() -> None:
    assert tool_result("c", "text").parts[0].tool_result.text == "text"
    assert tool_result("c", {"a": 1}).parts[0].tool_result.data["a"] == 1


def test_pictures_of_tool_results() -> None:
    message = tool_result("c1", "shot", [b"1", b"2"])
    assert [part.WhichOneof("kind") for part in message.parts] == ["tool_result", "image", "image"]
    assert (message.parts[0].tool_result.text, message.parts[2].image.data) == ("shot", b"2")


def test_tools_may_be_strict() -> None:
    plain = {"name": "f", "parameters": {"type": "object"}}
    assert not tool(plain).strict
    assert tool({**plain, "strict": True}).strict
    assert tool({"type": "function", "function": {**plain, "strict": True}}).strict


def test_allowed_tools() -> None:
    request = chat_request(
        "hi", {"tools": [{"name": "f"}], "allowed_tools": ["f"], "tool_choice": "required"}
    )
    assert request.tool_choice.mode == tool_pb2.ToolChoice.MODE_REQUIRED
    assert list(request.tool_choice.allowed_names) == ["f"]
    given = tool_pb2.ToolChoice(allowed_names=["g"])
    assert list(chat_request("hi", {"tool_choice": given}).tool_choice.allowed_names) == ["g"]
    both = chat_request("hi", {"tool_choice": given, "allowed_tools": ["f"]})
    assert (list(both.tool_choice.allowed_names), list(given.allowed_names)) == (["f"], ["g"])


def turn(*parts: content_pb2.Part) -> content_pb2.Message:
    return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=parts)


def called(call_id: str, arguments_json: str) -> content_pb2.Part:
    return content_pb2.Part(tool_call=tool_pb2.ToolCall(id=call_id, name="f", arguments_json=arguments_json))


TEXT, THOUGHT = content_pb2.Part(text="a "), content_pb2.Part(reasoning="r")


@pytest.mark.parametrize(
    ("turns", "whole"),
    [
        ([], turn()),
        ([turn()], turn()),
        ([turn(TEXT), turn(), turn(TEXT)], turn(content_pb2.Part(text="a a "))),
        ([turn(THOUGHT), turn(THOUGHT, TEXT)], turn(content_pb2.Part(reasoning="rr"), TEXT)),
        ([turn(TEXT, called("1", '{"a')), turn(called("1", "{}"))], turn(TEXT, called("1", "{}"))),
        ([turn(called("1", "{}")), turn(called("2", "{}"))], turn(called("1", "{}"), called("2", "{}"))),
        ([turn(called("1", "{}")), turn(TEXT)], turn(called("1", "{}"), TEXT)),
    ],
)
def test_turns_that_went_on(turns: list[content_pb2.Message], whole: content_pb2.Message) -> None:
    before = [content_pb2.Message.FromString(one.SerializeToString()) for one in turns]
    assert joined(*turns) == whole
    assert turns == before
    candidates = [chat_service_pb2.Candidate(message=one) for one in turns]
    answers = [Answer(chat_service_pb2.ChatResponse(candidates=[one])) for one in candidates]
    assert joined(*answers) == whole


def test_unknown_options() -> None:
    options: ChatOptions = {"temprature": 1.0}  # type: ignore[typeddict-unknown-key]
    with pytest.raises(TypeError, match="unknown options: temprature"):
        chat_request("hi", options)
