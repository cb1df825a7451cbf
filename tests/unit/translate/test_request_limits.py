"""What follows from the context window, and that nothing is counted further than to its limit."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from octet.engine.types import ModelInfo
from octet.errors import InvalidRequestError
from octet.translate.media import ImageLimits
from octet.translate.messages import to_messages
from octet.translate.request_limits import RequestLimits, check_counts, count_values, limits_of
from octet.translate.values import dict_to_struct
from octet.v1.chat_service_pb2 import ChatRequest
from octet.v1.content_pb2 import ROLE_ASSISTANT, ROLE_TOOL, ROLE_USER, Message, Part
from octet.v1.tool_pb2 import ToolCall, ToolResult

LIMITS = RequestLimits(messages=3, parts=5)


def turns(*parts: int) -> ChatRequest:
    return ChatRequest(messages=[Message(role=ROLE_USER, parts=[Part(text="a")] * count) for count in parts])


def test_limits_follow_from_the_context_window(model: ModelInfo) -> None:
    large = limits_of(replace(model, context_window=131072, longest_token=31))
    assert (large.messages, large.parts, large.values) == (2048, 2048, 65536)
    assert large.text_bytes == 4 * 2**20 + 131072 * 31
    assert large.fields == 65536 + 4 * 131072
    small = limits_of(replace(model, context_window=2048))
    assert (small.messages, small.parts, small.values) == (1024, 1024, 1024)


def test_messages_and_parts_are_counted() -> None:
    check_counts(turns(1, 1, 3), LIMITS)
    with pytest.raises(InvalidRequestError) as raised:
        check_counts(turns(1, 1, 1, 1), LIMITS)
    assert raised.value.field == "messages"
    assert "has 4 messages, more than the 3 " in raised.value.message
    with pytest.raises(InvalidRequestError) as raised:
        check_counts(turns(2, 4, 1), LIMITS)
    assert raised.value.field == "messages[1].parts"
    assert "to 6, more than the 5 " in raised.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def values_in(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(values_in, value.values()))
    return 1 + sum(map(values_in, value)) if isinstance(value, list) else 1


@given(st.dictionaries(st.text(), JSON, max_size=4), st.integers(0, 40))
def test_values_are_counted_alike_in_both_forms(value: dict[str, Any], most: int) -> None:
    expected = min(values_in(value), most + 1)
    assert count_values(value, most) == count_values(dict_to_struct(value), most) == expected


def result(data: Struct, call_id: str = "c") -> list[Message]:
    call = ToolCall(id=call_id, name="f", arguments_json="{}")
    return [
        Message(role=ROLE_ASSISTANT, parts=[Part(tool_call=call)]),
        Message(role=ROLE_TOOL, parts=[Part(tool_result=ToolResult(call_id=call_id, data=data))]),
    ]


def conversation(*results: Struct) -> list[Message]:
    asked = [Message(role=ROLE_USER, parts=[Part(text="a")])]
    return asked + [message for i, data in enumerate(results) for message in result(data, call_id=f"c{i}")]


def test_values_of_calls_and_results_are_counted_together(model: ModelInfo, limits: ImageLimits) -> None:
    small = replace(model, context_window=40)
    numbers = dict_to_struct({"x": [1, 2, 3]})  # five values
    # The arguments of each call, {}, are one.
    to_messages(conversation(numbers, numbers, numbers), model=small, limits=limits)
    with pytest.raises(InvalidRequestError) as raised:
        to_messages(conversation(*[numbers] * 4), model=small, limits=limits)
    assert raised.value.field == "messages[8].parts[0].tool_result.data"
    assert "to more than the 20 " in raised.value.message
    many = conversation(numbers)
    many[1].parts[0].tool_call.arguments_json = str({"x": [1] * 30}).replace("'", '"')
    with pytest.raises(InvalidRequestError) as raised:
        to_messages(many, model=small, limits=limits)
    assert raised.value.field == "messages[1].parts[0].tool_call.arguments_json"
    many[1].parts[0].tool_call.arguments.update({"x": [1] * 30})
    many[1].parts[0].tool_call.arguments_json = ""
    with pytest.raises(InvalidRequestError) as raised:
        to_messages(many, model=small, limits=limits)
    assert raised.value.field == "messages[1].parts[0].tool_call.arguments"
