from collections.abc import Callable

import pytest

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
from octet.errors import InvalidRequestError, ModelNotFoundError
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
from octet.v1.chat_service_pb2 import CancelChatRequest, ChatRequest
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
    converted = convert(request_)
    assert converted.request_id == "r1"
    assert converted.tools == (Tool("f", "", {"type": "object"}),)
    assert converted.tool_choice == ToolChoice(ToolChoiceMode.NONE)
    assert converted.sampling == Sampling(seed=7)
    assert converted.output_format == OutputFormat(OutputKind.REGEX, "a+")


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
    assert not is_costly(request_)
    with_picture = ChatRequest()
    with_picture.CopyFrom(request_)
    with_picture.messages[0].parts.add().image.data = b"x"
    assert is_costly(with_picture)
    request_.tools[0].parameters.update({"properties": {str(i): {} for i in range(1000)}})
    assert is_costly(request_)
    large_format = ChatRequest(output_format={"json_schema": request_.tools[0].parameters})
    assert is_costly(large_format)


def test_cancelled_ids_come_once_each() -> None:
    assert to_cancelled_ids(CancelChatRequest(request_ids=["b", "a", "b"])) == ("b", "a")
    assert len(to_cancelled_ids(CancelChatRequest(request_ids=[str(i) for i in range(1000)]))) == 1000


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
        to_cancelled_ids(CancelChatRequest(request_ids=ids))
    assert caught.value.field == field
