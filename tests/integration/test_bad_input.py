"""Requests that are wrong in one field each, over a real channel: the status, the field and the sentence."""

from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from octet.config import ServerConfig
from octet.v1 import chat_service_pb2
from tests.integration.conftest import Start, ask, details_of

USER: dict[str, Any] = {"role": "ROLE_USER", "parts": [{"text": "Hi"}]}
TOOL: dict[str, Any] = {"name": "f", "parameters": {"type": "object"}}
CALL: dict[str, Any] = {"toolCall": {"id": "c1", "name": "f", "argumentsJson": "{}"}}
RESULT: dict[str, Any] = {"toolResult": {"callId": "c1", "text": "done"}}
PNG_URI = "data:image/png;base64,aGVsbG8="


def turn(role: str | int, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "parts": list(parts)}


def talk(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages)}


def called(*parts: dict[str, Any], then: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """A conversation in which the assistant made calls; the last word is the user's."""
    return talk(USER, turn("ROLE_ASSISTANT", *parts), *then, USER)


def picture(**image: Any) -> dict[str, Any]:
    return talk(turn("ROLE_USER", {"image": image}))


# What is wrong, the fields of the request, the path of the wrong one, and what the sentence says.
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("no messages", {"messages": []}, "messages", "at least one message"),
    ("unknown role", talk(turn(99, {"text": "Hi"})), "messages[0].role", "99 is not a role; use ROLE_SYSTEM"),
    ("no role", talk(turn(0, {"text": "Hi"})), "messages[0].role", "0 is not a role"),
    (
        "limited reasoning",
        {**talk(USER), "sampling": {"max_reasoning_tokens": 5}},
        "sampling.max_reasoning_tokens",
        "tells no reasoning from answers",
    ),
    (
        "negative reasoning",
        {**talk(USER), "sampling": {"max_reasoning_tokens": -1}},
        "sampling.max_reasoning_tokens",
        "-1 is not at least 0",
    ),
    (
        "whole call last",
        talk(USER, turn("ROLE_ASSISTANT", {"tool_call": {"id": "1", "name": "f", "arguments_json": "{}"}})),
        "messages[1].parts[0].tool_call",
        "is the last of all and complete; its result comes next",
    ),
    ("no parts", talk(turn("ROLE_USER")), "messages[0].parts", "at least one part"),
    ("part of no kind", talk(turn("ROLE_USER", {})), "messages[0].parts[0]", "set one of text, image"),
    ("empty text", talk(turn("ROLE_USER", {"text": ""})), "messages[0].parts[0].text", "leave the part out"),
    (
        "reasoning of a user",
        talk(turn("ROLE_USER", {"reasoning": "hm"})),
        "messages[0].parts[0].reasoning",
        "is not allowed in a message of ROLE_USER",
    ),
    ("picture of no source", picture(), "messages[0].parts[0].image", "set data to the bytes"),
    ("no picture", picture(data="aGVsbG8="), "messages[0].parts[0].image.data", "is not a PNG, JPEG"),
    ("no picture in a URI", picture(uri=PNG_URI), "messages[0].parts[0].image.uri", "is not a PNG, JPEG"),
    ("URI without base64", picture(uri="data:,x"), "messages[0].parts[0].image.uri", "is not base64"),
    ("damaged URI", picture(uri="data:;base64,x"), "messages[0].parts[0].image.uri", "is not valid base64"),
    (
        "large URI",
        picture(uri=f"data:;base64,{'A' * 4000}"),
        "messages[0].parts[0].image.uri",
        "holds more than the limit of 1000 bytes",
    ),
    (
        "URI elsewhere",
        picture(uri="https://images.test/a"),
        "messages[0].parts[0].image.uri",
        "this server fetches no pictures (--image-host)",
    ),
    ("file URI", picture(uri="file:///etc/passwd"), "messages[0].parts[0].image.uri", "is not a data: URI"),
    ("picture of nobody", talk(turn("ROLE_TOOL", {"image": {}})), "messages[0].parts[0].image", "ROLE_TOOL"),
    ("call without id", called({"toolCall": {"name": "f"}}), "messages[1].parts[0].tool_call.id", "repeat"),
    (
        "call without name",
        called({"toolCall": {"id": "c1", "argumentsJson": "{}"}}),
        "messages[1].parts[0].tool_call.name",
        "is not 1 to 64 characters",
    ),
    (
        "call that contradicts itself",
        called({"toolCall": {"id": "c1", "name": "f", "arguments": {"a": 1}, "argumentsJson": "{}"}}),
        "messages[1].parts[0].tool_call.arguments_json",
        "contradicts arguments; set one of the two",
    ),
    (
        "same call twice",
        called(CALL, CALL),
        "messages[1].parts[1].tool_call.id",
        "'c1' is the id of an earlier",
    ),
    (
        "result of no call",
        talk(USER, turn("ROLE_TOOL", RESULT)),
        "messages[1].parts[0].tool_result.call_id",
        "'c1' is not the id of a call in an earlier message",
    ),
    (
        "result of another call",
        called(CALL, then=(turn("ROLE_TOOL", {"toolResult": {"callId": "c2", "text": "x"}}),)),
        "messages[2].parts[0].tool_result.call_id",
        "'c2' is not the id",
    ),
    (
        "two results of a call",
        called(CALL, then=(turn("ROLE_TOOL", RESULT, RESULT),)),
        "messages[2].parts[1].tool_result.call_id",
        "'c1' has a result already",
    ),
    (
        "result of neither form",
        called(CALL, then=(turn("ROLE_TOOL", {"toolResult": {"callId": "c1"}}),)),
        "messages[2].parts[0].tool_result",
        "set text or data",
    ),
    (
        "picture before its result",
        called(CALL, then=(turn("ROLE_TOOL", {"image": {}}, RESULT),)),
        "messages[2].parts[0].image",
        "goes behind the one that it is of",
    ),
    (
        "broken picture of a result",
        called(CALL, then=(turn("ROLE_TOOL", RESULT, {"image": {"data": "aGVsbG8="}}),)),
        "messages[2].parts[1].image.data",
        "is not a PNG, JPEG",
    ),
    (
        "large picture of a result",
        called(CALL, then=(turn("ROLE_TOOL", RESULT, {"image": {"data": "A" * 4000}}),)),
        "messages[2].parts[1].image.data",
        "more than the limit of 1000",
    ),
    (
        "picture of a result elsewhere",
        called(CALL, then=(turn("ROLE_TOOL", RESULT, {"image": {"uri": "https://images.test/a"}}),)),
        "messages[2].parts[1].image.uri",
        "this server fetches no pictures (--image-host)",
    ),
    (
        "many pictures of results",
        called(CALL, then=(turn("ROLE_TOOL", RESULT, *[{"image": {}}] * 5),)),
        "messages[2].parts[5].image",
        "is one of 5 pictures, more than the 4 of one request",
    ),
    ("tool without name", {"tools": [{}]}, "tools[0].name", "is not 1 to 64 characters"),
    ("two tools of a name", {"tools": [TOOL, TOOL]}, "tools[1].name", "'f' is the name of an earlier tool"),
    ("many tools", {"tools": [{"name": f"f{i}"} for i in range(129)]}, "tools", "has 129 tools"),
    (
        "parameters of no object",
        {"tools": [{"name": "f", "parameters": {}}]},
        "tools[0].parameters",
        '"object"',
    ),
    (
        "parameters of no schema",
        {"tools": [{"name": "f", "parameters": {"type": "object", "required": 1}}]},
        "tools[0].parameters",
        "is not a JSON Schema",
    ),
    ("unknown choice", {"tools": [TOOL], "toolChoice": {"mode": 99}}, "tool_choice.mode", "99 is not a mode"),
    ("required, but no tools", {"toolChoice": {"mode": "MODE_REQUIRED"}}, "tool_choice.mode", "has no tools"),
    (
        "named, but no name",
        {"tools": [TOOL], "toolChoice": {"mode": "MODE_NAMED"}},
        "tool_choice.name",
        "is empty",
    ),
    (
        "named, but unknown",
        {"tools": [TOOL], "toolChoice": {"mode": "MODE_NAMED", "name": "g"}},
        "tool_choice.name",
        "'g' is not the name of one",
    ),
    (
        "a name, but not named",
        {"tools": [TOOL], "toolChoice": {"mode": "MODE_NONE", "name": "f"}},
        "tool_choice.name",
        "the mode is not MODE_NAMED",
    ),
    (
        "calls demanded, and a form of text",
        {"tools": [TOOL], "toolChoice": {"mode": "MODE_REQUIRED"}, "outputFormat": {"regex": "a"}},
        "output_format",
        "set one of the two",
    ),
    (
        "an allowed name of no tool",
        {"tools": [TOOL], "toolChoice": {"allowedNames": ["f", "g"]}},
        "tool_choice.allowed_names[1]",
        "'g' is not the name of one",
    ),
    (
        "an empty allowed name",
        {"tools": [TOOL], "toolChoice": {"mode": "MODE_REQUIRED", "allowedNames": [""]}},
        "tool_choice.allowed_names[0]",
        "'' is not the name of one",
    ),
    (
        "an allowed name twice",
        {"tools": [TOOL], "toolChoice": {"mode": "MODE_AUTO", "allowedNames": ["f", "f"]}},
        "tool_choice.allowed_names[1]",
        "'f' is in the list already",
    ),
    (
        "allowed names, and one that is named",
        {"tools": [TOOL], "toolChoice": {"mode": "MODE_NAMED", "name": "f", "allowedNames": ["f"]}},
        "tool_choice.allowed_names",
        "MODE_NAMED leaves no choice",
    ),
    (
        "allowed names, and none to be called",
        {"tools": [TOOL], "toolChoice": {"mode": "MODE_NONE", "allowedNames": ["f"]}},
        "tool_choice.allowed_names",
        "MODE_NONE leaves no choice",
    ),
    (
        "a strict tool, and tokens that are excluded",
        {"tools": [TOOL, {"name": "g", "strict": True}], "sampling": {"ignoreEos": True}},
        "sampling.ignore_eos",
        "that tools[1].strict permits",
    ),
    ("no priorities here", {"priority": 1}, "priority", "--scheduling-policy"),
    ("long salt", {"cacheSalt": "x" * 129}, "cache_salt", "has 129 characters, more than 128"),
    (
        "reserved variable",
        {"chatTemplateArgs": {"tools": []}},
        "chat_template_args.tools",
        "the request itself",
    ),
    ("large variables", {"chatTemplateArgs": {"a": "x" * 20000}}, "chat_template_args", "the limit of 16384"),
    ("no pan and scan here", {"imageOptions": {"panAndScan": True}}, "image_options.pan_and_scan", "Gemma 3"),
    ("long id", {"requestId": "x" * 129}, "request_id", "1 to 128 printable ASCII characters"),
]


def request_of(fields: dict[str, Any]) -> chat_service_pb2.ChatRequest:
    return json_format.ParseDict(talk(USER) | fields, chat_service_pb2.ChatRequest())


@pytest.mark.parametrize(
    ("fields", "field", "problem"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
async def test_bad_fields_are_named_before_the_engine(
    start: Start, fields: dict[str, Any], field: str, problem: str
) -> None:
    running = await start(config=ServerConfig(port=0, max_image_bytes=1000))
    for method in ("Chat", "StreamChat"):
        call = getattr(running.chat, method)(request_of(fields))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await (call.read() if method == "StreamChat" else call)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        details = details_of(raised.value)
        [violation] = details.bad_request.field_violations
        assert violation.field == field
        assert problem in violation.description
        assert details.info.reason == "INVALID_FIELD"
    assert running.engine.asked == []
    await running.chat.Chat(ask())


@pytest.mark.parametrize(
    ("fields", "reason", "problem"),
    [
        ({"model": "other"}, "MODEL_NOT_FOUND", "use fake"),
        ({"adapter": "poet"}, "ADAPTER_NOT_FOUND", "'poet' is not loaded here; use pirate"),
    ],
)
async def test_names_of_nothing(start: Start, fields: dict[str, Any], reason: str, problem: str) -> None:
    running = await start()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(request_of(fields))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert details_of(raised.value).info.reason == reason
    assert problem in str(raised.value.details())
    assert running.engine.asked == []
