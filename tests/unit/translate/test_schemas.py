import time
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct, Value

from octet.errors import InvalidRequestError
from octet.translate.schemas import MAX_SCHEMA_BYTES, MAX_SUBSCHEMAS, SchemaReader
from octet.translate.values import MAX_DEPTH, dict_to_struct

FIELD = "tools[1].parameters"


def read(schema: dict[str, Any]) -> dict[str, Any]:
    return SchemaReader().read(dict_to_struct(schema), FIELD)


def refusal(schema: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        read(schema)
    assert caught.value.field == FIELD
    return caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {
            "type": ["object", "null"],
            "properties": {"a": {"type": "integer", "minimum": 1}},
            "required": ["a"],
        },
        {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"enum": [1, "x", None, {"y": [2]}]}}},
        {"$ref": "#/definitions/a", "definitions": {"a": True}},
        {"$ref": "#"},
        {"$id": "https://example.com/s", "$defs": {"a~/%": {}}, "$ref": "#/$defs/a~0~1%25"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
        {"items": {"$anchor": "here"}, "contains": {"$ref": "#here"}},
        # What only looks like a reference, or like a type.
        {"properties": {"$ref": {"type": "string"}, "type": {"type": "string"}, "dependencies": {}}},
        {
            "const": {"$ref": "https://example.com"},
            "enum": [{"type": [1] * 9}],
            "default": {"dependencies": 1},
        },
        # Engines read other dialects of regular expressions than Python's.
        {"pattern": r"^\p{L}+$"},
        {"x-order": {"properties": 3, "$defs": [4]}},
    ],
)
def test_schemas_are_taken_as_they_are(schema: dict[str, Any]) -> None:
    assert read(schema) == schema


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "strng"}, "'strng' is not one of ['array', 'boolean'"),
        ({"type": ["string", "strng"]}, "(at $.type)"),
        ({"type": ["string"] * 8}, "a type lists 8 names"),
        ({"properties": {"a": {"type": 3}}}, "(at $.properties.a.type)"),
        ({"properties": []}, "[] is not of type 'object' (at $.properties)"),
        ({"required": "a"}, "'a' is not of type 'array' (at $.required)"),
        ({"required": ["a", "a"]}, "has non-unique elements (at $.required)"),
        ({"items": {"anyOf": []}}, "should be non-empty (at $.items.anyOf)"),
        ({"minLength": -1}, "less than the minimum of 0 (at $.minLength)"),
        ({"additionalProperties": "no"}, "(at $.additionalProperties)"),
        ({"enum": {"a": 1}}, "is not of type 'array' (at $.enum)"),
        ({"pattern": 3}, "3 is not of type 'string' (at $.pattern)"),
        ({"$ref": 3}, "3 is not of type 'string'"),
        ({"dependencies": {"a": ["b"]}}, "dependentRequired"),
        ({"$ref": "https://example.com/s"}, "'https://example.com/s' refers to another document"),
        ({"items": [{"type": "string"}]}, "is not of type 'object', 'boolean' (at $.items)"),
        ({"properties": {"a": {"prefixItems": [{"$ref": "file:///x"}]}}}, "refers to another document"),
        ({"$dynamicRef": "other.json#x"}, "refers to another document"),
        ({"x-extra": {"$ref": 3}}, "3 refers to another document"),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "'#/$defs/b' refers to nothing in the schema"),
        ({"$ref": "#/enum/x", "enum": [1]}, "refers to nothing"),
        ({"$ref": "#/minimum/x", "minimum": 1}, "refers to nothing"),
    ],
)  # fmt: skip
def test_what_is_no_schema_is_refused_with_its_place(schema: dict[str, Any], problem: str) -> None:
    message = refusal(schema)
    assert message.startswith("is not a JSON Schema of draft 2020-12: ")
    assert problem in message


def test_what_is_no_json_is_refused() -> None:
    struct = Struct(fields={"minimum": Value(number_value=float("nan"))})
    with pytest.raises(InvalidRequestError, match="is not JSON: the number at minimum is not finite"):
        SchemaReader().read(struct, FIELD)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not valid JSON"),
        ("null", "is not a JSON object"),
        ('{"enum": [NaN]}', "NaN is not a JSON number"),
        ('{"enum": [1e999]}', "out of a double's range"),
        ('{"enum": [1' + "0" * 400 + "]}", "out of a double's range"),
        ('{"title": "\\ud800"}', "is not Unicode"),
        ('{"title": "a", "title": "b"}', "'title' stands twice"),
        ('{"properties": {"a": {}, "a": {}}}', "'a' stands twice"),
        ('{"not": ' * 24 + "{}" + "}" * 24, "nested more than 24 deep"),
        ("{" + '"not": {' * 60_000, "has 480001 bytes"),
        ('{"enum": ' + "[" * 60_000, "is nested too deeply"),
        ('{"title": "' + "x" * MAX_SCHEMA_BYTES + '"}', "more than the limit of 131072"),
        ('{"type": "strng"}', "is not a JSON Schema of draft 2020-12"),
    ],
)
def test_texts_that_are_no_schema(text: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SchemaReader().read_text(text, FIELD)
    assert caught.value.field == FIELD
    assert problem in caught.value.message


def test_a_schema_as_text_keeps_its_order_and_its_numbers() -> None:
    schema = SchemaReader().read_text(
        '{"properties": {"b": {"const": 12345678901234567890}, "a": {}}}', FIELD
    )
    assert list(schema["properties"]) == ["b", "a"]
    assert schema["properties"]["b"]["const"] == 12345678901234567890


def test_errors_quote_little() -> None:
    assert len(refusal({"type": "x" * 10_000})) < 400
    assert len(refusal({"$ref": "x" * 10_000})) < 400


def test_depth_is_limited() -> None:
    schema = dict_to_struct({"not": {}})
    for _ in range(MAX_DEPTH - 1):
        schema = Struct(fields={"not": Value(struct_value=schema)})
    with pytest.raises(InvalidRequestError, match="nested more than 24 deep"):
        SchemaReader().read(schema, FIELD)


def test_bytes_are_limited() -> None:
    assert read({"description": "x" * (MAX_SCHEMA_BYTES - 100)})
    assert "more than the limit of 131072" in refusal({"description": "x" * MAX_SCHEMA_BYTES})


def test_subschemas_are_limited_over_all_schemas_of_a_request() -> None:
    half = dict_to_struct({"properties": {str(i): {} for i in range(MAX_SUBSCHEMAS // 2)}})
    reader = SchemaReader()
    reader.read(half, "tools[0].parameters")
    with pytest.raises(InvalidRequestError, match="more than 4096 subschemas") as caught:
        reader.read(half, "tools[1].parameters")
    assert caught.value.field == "tools[1].parameters"


_MIXED = ["a", {}, *range(9_000)]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": _MIXED},
        {"anyOf": [{"type": _MIXED}]},
        {"dependencies": {"a": _MIXED}},
        {"required": _MIXED},
        {"required": [str(i) for i in range(9_000)] + ["0"]},
        {"dependentRequired": {"a": _MIXED}},
        {"allOf": [{}] * 20_000},
        {"allOf": [{"$ref": "#/$defs/x"}] * 5_000},
    ],
)
def test_hostile_schemas_are_refused_in_bounded_time(schema: dict[str, Any]) -> None:
    struct = dict_to_struct(schema)
    start = time.process_time()
    with pytest.raises(InvalidRequestError):
        SchemaReader().read(struct, FIELD)
    assert time.process_time() - start < 2


def test_a_schema_seen_before_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "description": "seen before"}
    first = read(schema)
    monkeypatch.setattr("octet.translate.schemas._META_VALIDATOR", None)
    second = read(schema)
    assert second == first == schema
    assert second is not first
