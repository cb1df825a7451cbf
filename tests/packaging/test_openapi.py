"""docs/openapi.json: a valid document, of all that Envoy offers, which JSON of the protos satisfies."""

import json
from typing import Any

import jsonschema
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from openapi_spec_validator import validate

from octet.v1 import chat_service_pb2, completion_service_pb2, embedding_service_pb2, model_service_pb2
from tests.openapi import check
from tools.openapi import TARGET, document

FILES = (chat_service_pb2, completion_service_pb2, embedding_service_pb2, model_service_pb2)
METHODS = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TARGET.read_text())
    return found


def test_it_is_what_the_protos_say(written: dict[str, Any]) -> None:
    assert written == document()


def test_it_is_valid(written: dict[str, Any]) -> None:
    validate(written)


def test_every_method_has_its_path(written: dict[str, Any]) -> None:
    ids = {one["operationId"] for verbs in written["paths"].values() for one in verbs.values()}
    assert ids == {f"{method.containing_service.name}_{method.name}" for method in METHODS}
    stream = written["paths"]["/v1/chat:stream"]["post"]
    assert set(stream["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(written["paths"]["/v1/models/{name}"]["get"]["responses"]) == {"200", "default"}


def filled(message: Any, choice: int, depth: int = 0) -> Any:
    """The message with every field set; of each oneof the field at a place."""
    for oneof in message.DESCRIPTOR.oneofs:
        _fill(message, oneof.fields[choice % len(oneof.fields)], choice, depth)
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is None:
            _fill(message, field, choice, depth)
    return message


def _fill(message: Any, field: FieldDescriptor, choice: int, depth: int) -> None:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        key = 5 if kind.fields_by_name["key"].cpp_type == FieldDescriptor.CPPTYPE_INT32 else "a"
        getattr(message, field.name)[key] = 1
    elif kind is not None and kind.full_name == "google.protobuf.Timestamp":
        getattr(message, field.name).FromSeconds(1_800_000_000)
    elif kind is not None and kind.full_name == "google.protobuf.Struct":
        getattr(message, field.name).update({"a": [1, None]})
    elif kind is not None:
        if depth < 8:
            inner = getattr(message, field.name)
            filled(inner.add() if field.is_repeated else inner, choice, depth + 1)
    else:
        value = _VALUES.get(field.cpp_type, 7)
        if field.type == FieldDescriptor.TYPE_BYTES:
            value = b"\xff"
        if field.enum_type is not None:
            value = field.enum_type.values[-1].number
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)


_VALUES: dict[int, Any] = {
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_STRING: "a",
    FieldDescriptor.CPPTYPE_FLOAT: float("-inf"),
}


@pytest.mark.parametrize("choice", range(6))
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_the_protos_make_of_messages_fits(written: dict[str, Any], method: Any, choice: int) -> None:
    for kind in (method.input_type, method.output_type):
        message = filled(message_factory.GetMessageClass(kind)(), choice)
        found = json_format.MessageToDict(message, preserving_proto_field_name=True)
        assert len(found) >= len(kind.fields) - len(kind.oneofs)
        check(written, kind.name, found)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("ChatRequest", {"messages": [{"role": "ROLE_USER", "parts": [{"text": "Hi"}]}]}, True),
        ("ChatRequest", {}, False),
        ("ChatRequest", {"messages": "Hi"}, False),
        ("ChatRequest", {"messages": [{"role": "user"}]}, False),
        ("SamplingParams", {"seed": "7", "logit_bias": {"5": -1.5}, "stop": ["a"]}, True),
        ("SamplingParams", {"seed": 7}, True),
        ("SamplingParams", {"seed": True}, False),
        ("SamplingParams", {"stop": "a"}, False),
        ("GetModelRequest", {"name": "a"}, True),
    ],
)
def test_requests(written: dict[str, Any], name: str, value: Any, fits: bool) -> None:
    if fits:
        check(written, name, value)
    else:
        with pytest.raises(jsonschema.ValidationError):
            check(written, name, value)
