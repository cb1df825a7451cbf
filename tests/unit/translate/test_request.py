from collections.abc import Callable
from contextlib import suppress

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from octet.engine.types import (
    GenerationRequest,
    Message,
    ModelInfo,
    OutputFormat,
    OutputKind,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from octet.errors import AdapterNotFoundError, InvalidRequestError, ModelNotFoundError
from octet.translate.media import ImageLimits
from octet.translate.request import (
    check_request_id,
    is_costly,
    resolve_model,
    to_cancelled_ids,
    to_generation_request,
)
from octet.translate.values import dict_to_struct
from octet.v1 import content_pb2
from octet.v1.chat_service_pb2 import ChatRequest, SamplingParams
from octet.v1.chat_service_pb2 import OutputFormat as OutputFormatMessage
from octet.v1.tool_pb2 import ToolChoice as ToolChoiceMessage

Convert = Callable[[ChatRequest], GenerationRequest]


@pytest.fixture
def convert(model: ModelInfo, limits: ImageLimits) -> Convert:
    return lambda request: to_generation_request(request, model=model, limits=limits, request_id="r1")


@pytest.fixture
def request_() -> ChatRequest:
    """The least that is a request."""
    request = ChatRequest()
    request.messages.add(role=content_pb2.ROLE_USER).parts.add(text="Hi!")
    return request


def test_the_least_request(convert: Convert, request_: ChatRequest) -> None:
    messages = (Message(Role.USER, (TextPart("Hi!"),)),)
    assert convert(request_) == GenerationRequest("r1", messages)


def test_a_request_with_everything(convert: Convert, request_: ChatRequest) -> None:
    request_.model = "gemma-alias"
    request_.request_id = "mine"
    request_.tools.add(name="f", parameters=dict_to_struct({"type": "object"}))
    request_.tool_choice.mode = ToolChoiceMessage.MODE_NONE
    request_.sampling.seed = 7
    request_.output_format.regex = "a+"
    request_.priority = -3
    request_.adapter = "poet"
    request_.cache_salt = "pepper"
    request_.chat_template_args.update({"enable_thinking": False, "depth": 3})
    request_.image_options.pan_and_scan = False
    converted = convert(request_)
    assert converted.request_id == "r1"
    assert converted.tools == (Tool("f", "", {"type": "object"}),)
    assert converted.tool_choice == ToolChoice(ToolChoiceMode.NONE)
    assert converted.sampling == Sampling(seed=7)
    assert converted.output_format == OutputFormat(OutputKind.REGEX, "a+")
    assert (converted.priority, converted.adapter, converted.cache_salt) == (-3, "poet", "pepper")
    assert converted.chat_template_args == {"enable_thinking": False, "depth": 3}
    assert converted.pan_and_scan is False


def _request_id(request: ChatRequest) -> None:
    request.request_id = "ö"


def _tools(request: ChatRequest) -> None:
    request.tools.add(name="?")


def _tool_choice(request: ChatRequest) -> None:
    request.tool_choice.name = "f"


def _empty_output_format(request: ChatRequest) -> None:
    request.output_format.SetInParent()


def _contradiction(request: ChatRequest) -> None:
    request.tools.add(name="f")
    request.tool_choice.mode = ToolChoiceMessage.MODE_REQUIRED
    request.output_format.regex = "a"


def _sampling(request: ChatRequest) -> None:
    request.sampling.n = 0


def _cache_salt(request: ChatRequest) -> None:
    request.cache_salt = "x" * 129


def _chat_template_args(request: ChatRequest) -> None:
    request.chat_template_args["messages"] = "mine"


def _messages(request: ChatRequest) -> None:
    request.ClearField("messages")


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (_request_id, "request_id"),
        (_tools, "tools[0].name"),
        (_tool_choice, "tool_choice.name"),
        (_empty_output_format, "output_format"),
        (_contradiction, "output_format"),
        (_sampling, "sampling.n"),
        (_cache_salt, "cache_salt"),
        (_chat_template_args, "chat_template_args.messages"),
        (_messages, "messages"),
    ],
)
def test_each_field_is_checked(
    convert: Convert, request_: ChatRequest, spoil: Callable[[ChatRequest], None], field: str
) -> None:
    spoil(request_)
    with pytest.raises(InvalidRequestError) as caught:
        convert(request_)
    assert caught.value.field == field


def test_schemas_of_tools_and_output_share_a_limit(convert: Convert, request_: ChatRequest) -> None:
    schema = dict_to_struct({"type": "object", "properties": {str(i): {} for i in range(2100)}})
    request_.tools.add(name="f", parameters=schema)
    convert(request_)
    request_.output_format.CopyFrom(OutputFormatMessage(json_schema=schema))
    with pytest.raises(InvalidRequestError, match="more than 4096 subschemas") as caught:
        convert(request_)
    assert caught.value.field == "output_format.json_schema"


def test_pictures_are_decoded_last(convert: Convert, request_: ChatRequest) -> None:
    request_.messages[0].parts.add().image.data = b"no picture"
    _sampling(request_)
    with pytest.raises(InvalidRequestError) as caught:
        convert(request_)
    assert caught.value.field == "sampling.n"


def test_an_unknown_model(convert: Convert, request_: ChatRequest) -> None:
    request_.model = "gpt"
    with pytest.raises(ModelNotFoundError, match="'gpt' is not served here; use gemma, gemma-alias"):
        convert(request_)


@pytest.mark.parametrize(
    ("name", "served"), [("", "gemma"), ("gemma", "gemma"), ("gemma-alias", "gemma-alias")]
)
def test_resolve_model(model: ModelInfo, name: str, served: str) -> None:
    assert resolve_model(name, model) == served


@pytest.mark.parametrize("request_id", ["a", "x" * 128, "a b~!"])
def test_well_formed_ids(request_id: str) -> None:
    check_request_id(request_id)


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a\n", "\x7f", "ü", "a\x00"])
def test_malformed_ids(request_id: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not 1 to 128 printable ASCII characters") as caught:
        check_request_id(request_id)
    assert caught.value.field == "request_id"


def test_is_costly(request_: ChatRequest) -> None:
    request_.tools.add(name="f", parameters=dict_to_struct({"type": "object"}))
    assert not is_costly(request_, 100)
    assert is_costly(request_, 20_000)
    request_.tools[0].parameters.update({"properties": {str(i): {} for i in range(1000)}})
    assert is_costly(request_, 100)
    large_format = ChatRequest(output_format={"json_schema": request_.tools[0].parameters})
    assert is_costly(large_format, 100)


def test_cancelled_ids_come_once_each() -> None:
    assert to_cancelled_ids(["b", "a", "b"]) == ("b", "a")
    assert len(to_cancelled_ids([str(i) for i in range(1000)])) == 1000


@pytest.mark.parametrize(
    ("ids", "field", "problem"),
    [
        ([], "request_ids", "has 0 ids, not 1 to 1000"),
        (["a"] * 1001, "request_ids", "has 1001 ids, not 1 to 1000"),
        (["a", ""], "request_ids[1]", "is not 1 to 128 printable ASCII characters"),
    ],
)
def test_wrong_cancelled_ids(ids: list[str], field: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        to_cancelled_ids(ids)
    assert caught.value.field == field


def _rich_request() -> bytes:
    request = ChatRequest(model="gemma", request_id="mine")
    request.messages.add(role=content_pb2.ROLE_SYSTEM).parts.add(text="Be brief.")
    request.messages.add(role=content_pb2.ROLE_USER).parts.add(text="Weather?")
    call = request.messages.add(role=content_pb2.ROLE_ASSISTANT).parts.add().tool_call
    call.id, call.name, call.arguments_json = "c1", "f", '{"city": "Oslo"}'
    call.arguments.update({"city": "Oslo"})
    result = request.messages.add(role=content_pb2.ROLE_TOOL).parts.add().tool_result
    result.call_id = "c1"
    result.data.update({"t": [-3.5, None, {"a": True}]})
    schema = {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/name"}},
        "$defs": {"name": {"type": ["string", "null"], "pattern": "a+", "enum": [1, "x"]}},
        "required": ["city"],
    }
    request.tools.add(name="f", description="The weather.", parameters=dict_to_struct(schema))
    request.tool_choice.mode = ToolChoiceMessage.MODE_AUTO
    request.sampling.CopyFrom(SamplingParams(temperature=1, top_p=0.5, n=2, stop=["a"], stop_token_ids=[1]))
    request.output_format.json_schema.update({"anyOf": [{"minimum": 1}, {"const": {"a": 1}}]})
    return request.SerializeToString(deterministic=True)


RICH = _rich_request()


@given(st.data())
def test_nothing_that_can_be_parsed_raises_another_error(data: st.DataObject) -> None:
    wire = bytearray(RICH)
    for position in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=6)):
        wire[position] = data.draw(st.integers(0, 255))
    request = ChatRequest()
    with suppress(DecodeError):
        request.ParseFromString(bytes(wire))
    model = ModelInfo(("gemma",), "gemma", True, 8192, 2048, None, (), 1, 256, 1000)
    with suppress(AdapterNotFoundError, InvalidRequestError, ModelNotFoundError):
        converted = to_generation_request(
            request, model=model, limits=ImageLimits(1000, 1000), request_id="r1"
        )
        assert len(converted.messages) == len(request.messages) > 0


def test_the_request_that_is_changed_above_is_sound(convert: Convert) -> None:
    assert len(convert(ChatRequest.FromString(RICH)).messages) == 4
