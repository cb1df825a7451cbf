import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct, Value

from octet.engine.types import (
    ImagePart,
    Message,
    ModelInfo,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from octet.errors import InvalidRequestError
from octet.translate.media import ImageLimits
from octet.translate.messages import pictures_of, to_messages
from octet.translate.pictures import uris_of
from octet.translate.values import dict_to_struct
from octet.v1 import content_pb2 as pb
from octet.v1.tool_pb2 import ToolCall, ToolResult

Convert = Callable[[Sequence[pb.Message]], tuple[Message, ...]]


@pytest.fixture
def convert(model: ModelInfo, limits: ImageLimits) -> Convert:
    return lambda messages: to_messages(messages, model=model, limits=limits)


def text(words: str) -> pb.Part:
    return pb.Part(text=words)


def image(data: bytes, mime_type: str = "") -> pb.Part:
    return pb.Part(image=pb.Image(data=data, mime_type=mime_type))


def call(call_id: str = "c1", name: str = "f", arguments_json: str = "{}", **fields: Any) -> pb.Part:
    return pb.Part(tool_call=ToolCall(id=call_id, name=name, arguments_json=arguments_json, **fields))


def result(call_id: str = "c1", words: str = "done") -> pb.Part:
    return pb.Part(tool_result=ToolResult(call_id=call_id, text=words))


def system(*parts: pb.Part) -> pb.Message:
    return pb.Message(role=pb.ROLE_SYSTEM, parts=parts)


def user(*parts: pb.Part) -> pb.Message:
    return pb.Message(role=pb.ROLE_USER, parts=parts)


def assistant(*parts: pb.Part) -> pb.Message:
    return pb.Message(role=pb.ROLE_ASSISTANT, parts=parts)


def tool(*parts: pb.Part) -> pb.Message:
    return pb.Message(role=pb.ROLE_TOOL, parts=parts)


def test_a_whole_conversation(convert: Convert) -> None:
    messages = [
        system(text("Be brief.")),
        user(text("Weather in Oslo and Rome?")),
        assistant(text("I look."), call("c1", "weather", '{"city": "Oslo"}'), call("c2", "weather", "{ }")),
        tool(
            result("c2", "warm"),
            pb.Part(tool_result=ToolResult(call_id="c1", data=dict_to_struct({"t": -3}))),
        ),
        assistant(text("Cold and warm.")),
        user(text("Thanks.")),
    ]
    assert convert(messages) == (
        Message(Role.SYSTEM, (TextPart("Be brief."),)),
        Message(Role.USER, (TextPart("Weather in Oslo and Rome?"),)),
        Message(
            Role.ASSISTANT,
            (
                TextPart("I look."),
                ToolCallPart("c1", "weather", '{"city": "Oslo"}'),
                ToolCallPart("c2", "weather", "{ }"),
            ),
        ),
        Message(
            Role.TOOL,
            (ToolResultPart("c2", "weather", "warm"), ToolResultPart("c1", "weather", '{"t": -3}')),
        ),
        Message(Role.ASSISTANT, (TextPart("Cold and warm."),)),
        Message(Role.USER, (TextPart("Thanks."),)),
    )


def test_pictures_keep_their_place_among_text(convert: Convert, png: bytes) -> None:
    (message,) = convert([user(image(png), text("and"), image(png, "image/png"), text("?"))])
    assert [type(part) for part in message.parts] == [ImagePart, TextPart, ImagePart, TextPart]
    first = message.parts[0]
    assert isinstance(first, ImagePart)
    assert (first.image.mode, first.image.size) == ("RGB", (2, 1))


def test_pictures_belong_to_the_result_before_them(convert: Convert, png: bytes) -> None:
    shown = image(png)
    parts = (result("c2", ""), shown, shown, NO_RESULT, shown)
    converted = convert([ASKED, assistant(call(), call("c2")), tool(*parts)])[2].parts
    first, second = converted[0], converted[3]
    assert (first, second) == (ToolResultPart("c2", "f", ""), ToolResultPart("c1", "f", ""))
    assert [type(part) for part in converted].count(ImagePart) == 3


def test_pictures_in_results_count_as_all_others_do(
    model: ModelInfo, limits: ImageLimits, png: bytes
) -> None:
    messages = [user(image(png)), CALLED, tool(result(), image(png), by_uri("https://a.test/x"))]
    fields = ["messages[0].parts[0].image", "messages[2].parts[1].image", "messages[2].parts[2].image"]
    pictures = pictures_of(messages)
    assert [path for path, _ in pictures] == fields
    assert uris_of(pictures, model) == {"https://a.test/x": f"{fields[2]}.uri"}
    for few in (replace(model, max_images=2), replace(model, takes_images=False)):
        with pytest.raises(InvalidRequestError) as caught:
            to_messages(messages, model=few, limits=limits)
        assert caught.value.field == fields[2 if few.takes_images else 0]


def test_reasoning_is_kept(convert: Convert) -> None:
    messages = [ASKED, assistant(pb.Part(reasoning="hm"), text("Yes.")), ASKED]
    assert convert(messages)[1].parts == (ReasoningPart("hm"), TextPart("Yes."))


def test_pictures_have_their_paths(png: bytes) -> None:
    messages = [user(text("a")), user(text("b"), image(png)), user(image(b""))]
    assert [path for path, _ in pictures_of(messages)] == [
        "messages[1].parts[1].image",
        "messages[2].parts[0].image",
    ]


def test_structured_arguments_become_text(convert: Convert) -> None:
    arguments = dict_to_struct({"n": 3, "city": "Zürich", "x": 0.5})
    messages = [user(text("a")), assistant(call(arguments_json="", arguments=arguments)), tool(result())]
    part = convert(messages)[1].parts[0]
    assert part == ToolCallPart("c1", "f", '{"city": "Zürich", "n": 3, "x": 0.5}')


def test_an_answer_can_be_sent_back_as_it_came(convert: Convert) -> None:
    # A Struct rounds the large integer; the text does not.
    verbatim = '{"id":  9007199254740993, "x": 1.0}'
    echoed = call(arguments_json=verbatim, arguments=dict_to_struct(json.loads(verbatim)))
    messages = [user(text("a")), assistant(echoed), tool(result())]
    assert convert(messages)[1].parts[0] == ToolCallPart("c1", "f", verbatim)


def test_results_may_come_later_and_be_empty(convert: Convert) -> None:
    messages = [user(text("a")), assistant(call()), user(text("b")), tool(result(words=""))]
    assert convert(messages)[3].parts == (ToolResultPart("c1", "f", ""),)


@pytest.mark.parametrize(
    "written",
    [
        '{"a":1,}',
        '{"a": "\n"}',
        '{"a": "\\d"}',
        '{"a": NaN}',
        "[1]",
        '"x"',
        "{'a': 1}",
        '{"a": "x',
        '{"a":' * 100_000,
    ],
    ids=lambda text: text[:10],
)
def test_a_models_mistakes_are_taken_as_they_are(convert: Convert, written: str) -> None:
    messages = [user(text("a")), assistant(call(arguments_json=written)), tool(result())]
    assert convert(messages)[1].parts[0] == ToolCallPart("c1", "f", written)


def test_calls_without_arguments(convert: Convert) -> None:
    messages = [user(text("a")), assistant(call(arguments_json="")), tool(result())]
    assert convert(messages)[1].parts[0] == ToolCallPart("c1", "f", "{}")


@pytest.mark.parametrize("parts", [[], [text("")], [pb.Part(reasoning="")]], ids=str)
def test_the_model_may_have_said_nothing(convert: Convert, parts: list[pb.Part]) -> None:
    said = convert([user(text("a")), assistant(*parts), user(text("b"))])[1]
    assert said.role is Role.ASSISTANT
    assert not any(getattr(part, "text", "") for part in said.parts)


def test_roles_follow_each_other_in_any_order(convert: Convert) -> None:
    developer = pb.Message(role=pb.ROLE_DEVELOPER, parts=[text("d")])
    said = [developer, system(text("s")), assistant(text("a")), user(text("u")), user(text("v")), developer]
    roles = [Role.SYSTEM, Role.SYSTEM, Role.ASSISTANT, Role.USER, Role.USER, Role.SYSTEM]
    assert [message.role for message in convert(said)] == roles
    assert convert([system(text("s"))]) == (Message(Role.SYSTEM, (TextPart("s"),)),)


ASKED = user(text("a"))
CALLED = assistant(call())
NO_RESULT = pb.Part(tool_result=ToolResult(call_id="c1"))
PICTURE = image(b"x")
NOBODY = pb.Message.FromString(b"\x08\x09")  # role 9, as a newer client could send it
NAN = Struct(fields={"x": Value(number_value=float("nan"))})

# What it is called, the messages, the path of the wrong field within them, and what the sentence says.
BAD: list[tuple[str, list[pb.Message], str, str]] = [
    ("no messages", [], "", "is empty"),
    ("no role", [pb.Message(parts=[text("a")])], "[0].role", "0 is not a role; use ROLE_SYSTEM, ROLE_USER"),
    ("unknown role", [ASKED, NOBODY], "[1].role", "9 is not a role"),
    ("a whole call last", [ASKED, CALLED], "[1].parts[0].tool_call", "its result comes next"),
    (
        "a whole call last behind another",
        [ASKED, assistant(text("a"), call("c0"), call(arguments_json='{"a": 1, }'))],
        "[1].parts[2].tool_call",
        "its result comes next",
    ),
    ("no parts", [ASKED, user()], "[1].parts", "a message needs at least one part"),
    ("a part of no kind", [user(text("a"), pb.Part())], "[0].parts[1]", "set one of text, image, tool_call"),
    ("empty text", [user(text("a"), text(""))], "[0].parts[1].text", "is empty"),
    (
        "user reasoning",
        [user(pb.Part(reasoning="a"))],
        "[0].parts[0].reasoning",
        "ROLE_USER, which takes text",
    ),
    ("empty system text", [system(text("")), ASKED], "[0].parts[0].text", "is empty"),
    ("system picture", [system(image(b"x")), ASKED], "[0].parts[0].image", "ROLE_SYSTEM, which takes text"),
    ("user call", [user(call())], "[0].parts[0].tool_call", "ROLE_USER, which takes text and image"),
    ("user result", [ASKED, CALLED, user(result())], "[2].parts[0].tool_result", "not allowed in a message"),
    ("assistant picture", [ASKED, assistant(image(b"x")), ASKED], "[1].parts[0].image", "ROLE_ASSISTANT"),
    ("assistant result", [ASKED, assistant(result()), ASKED], "[1].parts[0].tool_result", "not allowed"),
    (
        "tool text",
        [ASKED, CALLED, tool(text("a"))],
        "[2].parts[0].text",
        "which takes tool_result",
    ),
    ("no source", [user(pb.Part(image=pb.Image()))], "[0].parts[0].image", "has no source; set data"),
    ("no bytes", [user(image(b""))], "[0].parts[0].image.data", "is empty"),
    ("no picture", [user(text("a"), image(b"x"))], "[0].parts[1].image.data", "is not a PNG, JPEG"),
    ("four pictures", [user(image(b"x")), user(*[image(b"x")] * 3)], "[1].parts[2].image", "more than the 3"),
    ("no call id", [ASKED, assistant(call(""))], "[1].parts[0].tool_call.id", "0 characters, not 1 to 128"),
    ("long id", [ASKED, assistant(call("x" * 129))], "[1].parts[0].tool_call.id", "has 129 characters"),
    ("no call name", [ASKED, assistant(call(name=""))], "[1].parts[0].tool_call.name", "'' is not 1 to 64"),
    ("bad call name", [ASKED, assistant(call(name="f()"))], "[1].parts[0].tool_call.name", "'f()' is not"),
    (
        "same id",
        [ASKED, assistant(call(), call())],
        "[1].parts[1].tool_call.id",
        "'c1' is the id of an earlier",
    ),
    (
        "same id again",
        [ASKED, CALLED, tool(result()), CALLED],
        "[3].parts[0].tool_call.id",
        "'c1' is the id of an earlier call",
    ),
    (
        "contradictory arguments",
        [ASKED, assistant(call(arguments_json='{"a": 1}', arguments=dict_to_struct({"a": 2})))],
        "[1].parts[0].tool_call.arguments_json",
        "contradicts arguments; set one of the two",
    ),
    (
        "contradictory arguments that are no JSON",
        [ASKED, assistant(call(arguments_json='{"x": 1}', arguments=NAN))],
        "[1].parts[0].tool_call.arguments_json",
        "contradicts arguments",
    ),
    (
        "a structure beside what is no JSON",
        [ASKED, assistant(call(arguments_json="{a: 1}", arguments={"a": 1}))],
        "[1].parts[0].tool_call.arguments_json",
        "contradicts arguments",
    ),
    (
        "long arguments",
        [ASKED, assistant(call(arguments_json=" " * 1_048_577))],
        "[1].parts[0].tool_call.arguments_json",
        "has 1048577 characters, more than 1048576",
    ),
    (
        "a structure that is no JSON",
        [ASKED, assistant(call(arguments_json="", arguments=NAN))],
        "[1].parts[0].tool_call.arguments",
        "the number at x is not finite",
    ),
    ("result first", [tool(result())], "[0].parts[0].tool_result.call_id", "'c1' is not the id of a call"),
    (
        "no result id",
        [ASKED, CALLED, tool(result(""))],
        "[2].parts[0].tool_result.call_id",
        "'' is not the",
    ),
    (
        "wrong id",
        [ASKED, CALLED, tool(result("c2"))],
        "[2].parts[0].tool_result.call_id",
        "'c2' is not",
    ),
    (
        "result before call",
        [tool(result()), CALLED, ASKED],
        "[0].parts[0].tool_result.call_id",
        "not the id",
    ),
    (
        "two results",
        [ASKED, CALLED, tool(result(), result())],
        "[2].parts[1].tool_result.call_id",
        "'c1' has a result already",
    ),
    (
        "two results in two messages",
        [ASKED, CALLED, tool(result()), tool(result())],
        "[3].parts[0].tool_result.call_id",
        "'c1' has a result already",
    ),
    (
        "no result",
        [ASKED, CALLED, tool(NO_RESULT)],
        "[2].parts[0].tool_result",
        "has no result; set text or data, or let pictures follow",
    ),
    (
        "no result before another",
        [ASKED, assistant(call(), call("c2")), tool(NO_RESULT, result("c2"), PICTURE)],
        "[2].parts[0].tool_result",
        "has no result; set text or data, or let pictures follow",
    ),
    (
        "a picture of no result",
        [ASKED, CALLED, tool(PICTURE, result())],
        "[2].parts[0].image",
        "belongs to no tool result; in a message",
    ),
    (
        "a picture without a source",
        [ASKED, CALLED, tool(result(), pb.Part(image=pb.Image()))],
        "[2].parts[1].image",
        "has no source",
    ),
    (
        "no picture",
        [ASKED, CALLED, tool(result(), image(b"x"))],
        "[2].parts[1].image.data",
        "is not a PNG",
    ),
    (
        "a text among results",
        [ASKED, CALLED, tool(result(), text("x"))],
        "[2].parts[1].text",
        "which takes tool_result and image",
    ),
    (
        "a result that is no JSON",
        [ASKED, CALLED, tool(pb.Part(tool_result=ToolResult(call_id="c1", data=NAN)))],
        "[2].parts[0].tool_result.data",
        "the number at x is not finite",
    ),
]


@pytest.mark.parametrize(
    ("messages", "field", "problem"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_wrong_messages(convert: Convert, messages: list[pb.Message], field: str, problem: str) -> None:
    if messages and messages[-1].role == pb.ROLE_ASSISTANT and "comes next" not in problem:
        messages = [*messages, ASKED]
    with pytest.raises(InvalidRequestError) as caught:
        convert(messages)
    assert caught.value.field == f"messages{field}"
    assert problem in caught.value.message


def test_the_limits_of_pictures_apply(model: ModelInfo, png: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="bytes, more than the limit of 1") as caught:
        to_messages([user(image(png))], model=model, limits=ImageLimits(1, 1))
    assert caught.value.field == "messages[0].parts[0].image.data"


def by_uri(uri: str, mime_type: str = "") -> pb.Part:
    return pb.Part(image=pb.Image(uri=uri, mime_type=mime_type))


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def test_pictures_by_uri(model: ModelInfo, limits: ImageLimits, png: bytes) -> None:
    elsewhere = "https://images.test/a.png"
    messages = [user(by_uri(data_uri(png)), by_uri(elsewhere)), user(by_uri(elsewhere, "image/png"))]
    assert uris_of(pictures_of(messages), model) == {elsewhere: "messages[0].parts[1].image.uri"}
    converted = to_messages(messages, model=model, limits=limits, fetched={elsewhere: png})
    parts = [part for message in converted for part in message.parts]
    assert all(isinstance(part, ImagePart) and part.image.size == (2, 1) for part in parts)


@pytest.mark.parametrize(
    ("uri", "mime_type", "field", "problem"),
    [
        ("data:image/png,x", "", "uri", "is not base64"),
        ("data:image/png;base64", "", "uri", "has no comma"),
        ("data:image/png;base64,AA=A", "", "uri", "is not valid base64"),
        ("data:image/png;base64,", "", "uri", "is empty"),
        (data_uri(b"x"), "", "uri", "is not a PNG, JPEG"),
        ("", "", "uri", "is not a data: URI, and this server fetches no pictures"),
        ("https://images.test/a.png", "", "uri", "this server fetches no pictures (--image-host)"),
        ("file:///etc/passwd", "", "uri", "is not a data: URI"),
    ],
)
def test_wrong_uris(convert: Convert, uri: str, mime_type: str, field: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        convert([user(text("a"), by_uri(uri, mime_type))])
    assert caught.value.field == f"messages[0].parts[1].image.{field}"
    assert problem in caught.value.message


def test_what_a_uri_says_of_its_media_type_is_checked(convert: Convert, png: bytes) -> None:
    assert convert([user(by_uri(data_uri(png, ""), "image/png"))])
    for uri, mime_type, field in (
        (data_uri(png, "image/gif"), "", "uri"),
        (data_uri(png, "image/gif"), "image/png", "uri"),
        (data_uri(png), "image/gif", "mime_type"),
    ):
        with pytest.raises(InvalidRequestError, match="but the data is image/png") as caught:
            convert([user(by_uri(uri, mime_type))])
        assert caught.value.field == f"messages[0].parts[0].image.{field}"


def test_too_many_pictures_are_not_fetched(model: ModelInfo) -> None:
    with pytest.raises(InvalidRequestError, match="more than the 3 of one request"):
        uris_of(pictures_of([user(*[by_uri(f"https://images.test/{i}") for i in range(4)])]), model)


def test_a_media_type_that_contradicts_is_named(convert: Convert, png: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        convert([user(image(png, "image/gif"))])
    assert caught.value.field == "messages[0].parts[0].image.mime_type"


def test_a_model_of_text_takes_no_pictures(limits: ImageLimits, png: bytes) -> None:
    model = ModelInfo(("words",), "words", False, 8, 8, None, (), 0, 0, 8)
    with pytest.raises(InvalidRequestError, match="words takes text only") as caught:
        to_messages([user(text("a"), image(png))], model=model, limits=limits)
    assert caught.value.field == "messages[0].parts[1].image"


def test_pictures_are_counted_before_any_is_decoded(convert: Convert, png: bytes) -> None:
    # The first is no picture; what is wrong with their number is found earlier.
    with pytest.raises(InvalidRequestError, match="is one of 4 pictures"):
        convert([user(image(b"x"), image(png), image(png), image(png))])
