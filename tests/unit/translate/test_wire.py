"""Counting what is serialized agrees with the parser, and ends at the limits."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from octet.errors import InvalidRequestError, MalformedRequestError
from octet.translate.request_limits import RequestLimits
from octet.translate.values import dict_to_struct
from octet.translate.wire import check_wire
from octet.v1.chat_service_pb2 import ChatRequest
from octet.v1.model_service_pb2 import CountTokensRequest, DetokenizeRequest

AMPLE = RequestLimits(text_bytes=2**30, fields=2**30)


def fields_of(message: Any) -> int:
    """Fields as they are written: each element of a list, and those of the messages in them."""
    count = 0
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"].message_type
            count += sum(3 + (fields_of(value[key]) if inner else 0) for key in value)
        elif field.message_type is not None:
            values = value if field.is_repeated else [value]
            count += sum(1 + fields_of(item) for item in values)
        else:
            # Numbers are packed.
            text = field.type in (field.TYPE_STRING, field.TYPE_BYTES)
            count += len(value) if field.is_repeated and text else 1
    return count


def example() -> ChatRequest:
    request = ChatRequest(model="fake", priority=-1)
    request.messages.add(role=2).parts.add(text="ä" * 300)
    request.messages[0].parts.add().image.data = b"x" * 5000
    request.messages[0].parts.add().image.uri = "data:" + "y" * 3000
    request.messages.add(role=3).parts.add().tool_call.arguments.update({"a": [1, None, {"b": [True]}]})
    request.tools.add(name="f", parameters=dict_to_struct({"type": "object", "properties": {"a": {}}}))
    request.sampling.stop.extend(["a", "b"])
    request.sampling.stop_token_ids.extend(range(200))
    request.sampling.logit_bias[300] = 1.5
    request.sampling.temperature = 1
    return request


def refusal(message: Any, limits: RequestLimits) -> InvalidRequestError | None:
    try:
        check_wire(message.SerializeToString(), message.DESCRIPTOR, limits)
    except InvalidRequestError as error:
        return error
    return None


def test_exactly_the_limits_are_taken() -> None:
    request = example()
    fields, text = fields_of(request), request.ByteSize() - 5000 - 3005
    assert refusal(request, RequestLimits(fields=fields, text_bytes=text)) is None
    for limits in (
        RequestLimits(fields=fields - 1, text_bytes=text),
        RequestLimits(fields=fields, text_bytes=text - 1),
    ):
        error = refusal(request, limits)
        assert error is not None
        assert not isinstance(error, MalformedRequestError)
        wrapped = refusal(CountTokensRequest(request=request), replace(limits, fields=limits.fields + 1))
        assert wrapped is not None
        assert wrapped.field.startswith("request.")


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("messages", ChatRequest(messages=[{}] * 1000)),
        ("messages", ChatRequest(messages=[{"parts": [{"text": "a"}] * 1000}])),
        ("messages", ChatRequest(messages=[{"parts": [{"image": {"mime_type": "x" * 2000}}]}])),
        ("tools", ChatRequest(tools=[{}] * 1000)),
        ("tools", ChatRequest(tools=[{"parameters": dict_to_struct({str(i): None for i in range(400)})}])),
        ("sampling.stop", ChatRequest(sampling={"stop": [""] * 1000})),
        ("sampling.stop_token_ids", ChatRequest(sampling={"stop_token_ids": [1] * 2000})),
        ("sampling.logit_bias", ChatRequest(sampling={"logit_bias": dict.fromkeys(range(400), 1.0)})),
        ("model", ChatRequest(model="x" * 2000)),
        ("output_format.regex", ChatRequest(output_format={"regex": "x" * 2000})),
        (
            "output_format.json_schema.fields",
            ChatRequest(output_format={"json_schema": dict_to_struct({str(i): 1 for i in range(400)})}),
        ),
        ("token_ids", DetokenizeRequest(token_ids=[1] * 2000)),
    ],
)
def test_the_field_that_holds_too_much_is_named(field: str, request_: Any) -> None:
    error = refusal(request_, RequestLimits(fields=500, text_bytes=1800))
    assert error is not None
    assert error.field == field
    assert "500 fields" in error.message or "1800 bytes" in error.message


def test_fields_that_nobody_knows_count() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        check_wire(b"\xf8\x01\x01" * 1000, ChatRequest.DESCRIPTOR, RequestLimits(fields=500))
    assert raised.value.field == ""
    for unknown in (b"\xf9\x01" + b"x" * 8, b"\xfd\x01" + b"x" * 4, b"\xfa\x01\x02xx"):
        check_wire(unknown * 10, ChatRequest.DESCRIPTOR, RequestLimits(fields=10))
        with pytest.raises(InvalidRequestError, match="9 fields"):
            check_wire(unknown * 10, ChatRequest.DESCRIPTOR, RequestLimits(fields=9))


@given(st.binary(max_size=60))
def test_bytes_of_any_kind(data: bytes) -> None:
    """What is no message here is none for the parser; the parser knows more ways to be none."""
    try:
        check_wire(data, ChatRequest.DESCRIPTOR, AMPLE)
    except MalformedRequestError as error:
        if "wire type" not in error.message:  # unknown groups are skipped by parsers
            with pytest.raises(DecodeError):
                ChatRequest.FromString(data)


@given(st.integers(0, 400), st.integers(0, 255))
def test_broken_messages(place: int, byte: int) -> None:
    data = bytearray(example().SerializeToString())
    data[place % len(data)] = byte
    test_bytes_of_any_kind.hypothesis.inner_test(bytes(data))  # type: ignore[attr-defined]
