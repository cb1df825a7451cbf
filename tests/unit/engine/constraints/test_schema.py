"""Which schemas are enforced, and what is said about the others."""

import json
from typing import Any

import pytest

from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.reasons import explain
from octet.engine.vllm.constraints.schema import NotEnforceableError, to_enforceable
from octet.engine.vllm.constraints.walk import Walk


def follow(schema: dict[str, Any], *, white_space: bool = False) -> Walk:
    enforceable = to_enforceable(schema)
    return Walk(grammars.of_schema(enforceable.schema, separators=(",", ":"), white_space=white_space))


def permits(schema: dict[str, Any], answer: Any) -> bool:
    walk = follow(schema)
    assert walk.error == ""
    return walk.takes(answer if isinstance(answer, str) else json.dumps(answer, separators=(",", ":")))


INT, STR = {"type": "integer"}, {"type": "string"}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": INT}, "required": ["kind"]}
DOG = {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "multipleOf": 5, "minimum": 5, "maximum": 5}, "5", "6"),
        ({"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}, '"abc"', '"abcd"'),
        ({"type": "string", "format": "date", "pattern": "^2025"}, '"2025-01-31"', '"2024-01-31"'),
        ({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["b"]}, '{"b":1}', "{}"),
        ({"allOf": [{"type": "string", "maxLength": 3}, {"minLength": 2}]}, '"ab"', '"a"'),
        ({"minimum": 3}, "3", "2"),
        ({"minimum": 3}, '"x"', "2"),
        ({"anyOf": [STR, {"type": "null"}], "maxLength": 1}, '"a"', '"ab"'),
        ({"enum": ["a", 1, None], "type": ["string", "null"]}, "null", "1"),
        ({"const": {"b": [1], "a": 2}}, '{"b":[1],"a":2}', '{"a":2,"b":[1]}'),
        ({"type": "array", "prefixItems": [INT], "items": STR, "minItems": 1}, '[1,"a"]', '["a"]'),
        ({"$ref": "#/$defs/n", "$defs": {"n": INT}, "minimum": 2}, "2", "1"),
        ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": INT}}, "2", '"x"'),
        ({"items": {"$ref": "#n"}, "$defs": {"n": {"$anchor": "n", "const": 1}}, "type": "array"},
         "[1]", "[2]"),
        ({"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
         '{"next":{"next":{}}}', '{"next":1}'),
        # One name in two ways of writing it.
        ({"type": "object", "properties": {"a": INT}}, '{"b":"x"}', '{"\\u0061":"x"}'),
        ({"type": "object", "properties": {"a": INT, "ab": INT}, "additionalProperties": STR},
         '{"abc":"x","b":"","":"y"}', '{"ab":"x"}'),
        ({"type": "object", "properties": {"a": INT}, "additionalProperties": STR},
         '{"a":1}', '{"\\u0061":"x"}'),
        ({"type": "object", "patternProperties": {"^x": INT}}, '{"x1":2}', '{"x1":"2"}'),
        ({"type": "object", "patternProperties": {"^x": INT}}, "{}", '{"\\u0078":"2"}'),
        ({"type": "object", "patternProperties": {"^x": INT}, "required": ["y"]}, '{"y":"z"}', "{}"),
        ({"oneOf": [CAT, DOG, {"type": "null"}]}, '{"kind":"dog"}', '{"kind":"cow"}'),
        ({"oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/d"}], "$defs": {"c": CAT, "d": DOG}},
         '{"kind":"cat","lives":9}', '{"kind":"cat","lives":"9"}'),
        ({"oneOf": [INT, STR], "anyOf": [{"const": 1}, {"const": "a"}]}, "1", "2"),
        ({"type": "object", "minProperties": 1}, '{"a":1}', "{}"),
        # What asserts nothing.
        ({"type": "string", "format": "password"}, '"x"', "1"),
        ({"type": "string", "format": "byte", "contentEncoding": "base64", "x-a": {"not": {}}}, '"x"', "1"),
        ({"type": "integer", "format": "int64", "title": "T", "default": 0, "examples": [1]}, "7", '"7"'),
        ({"not": False, "type": "integer", "uniqueItems": False, "dependentRequired": {}}, "1", '"1"'),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/x", **INT},
         "1", "true"),
        ({"x-guidance": {"whitespace_flexible": True, "lenient": True}, "type": "object"}, "{}", "{ }"),
        ({"$defs": {"unused": {"type": "string"}}, "type": "object"}, '{"a":[1,{"b":null}]}', '{"a": 1}'),
    ],
)  # fmt: skip
def test_what_is_enforced(schema: dict[str, Any], good: str, bad: str) -> None:
    assert permits(schema, good)
    assert not permits(schema, bad)


@pytest.mark.parametrize(
    ("schema", "pointer", "sentence"),
    [
        ({"not": INT}, "/not", "say what is allowed instead"),
        ({"properties": {"a~/b": {"not": INT}}}, "/properties/a~0~1b/not", "not cannot be enforced"),
        ({"items": [], "if": INT, "then": INT} | {"items": INT}, "/if", "branches of anyOf"),
        ({"anyOf": [INT, {"contains": {"const": 1}}]}, "/anyOf/1/contains", "contains cannot"),
        ({"dependentRequired": {"a": ["b"]}}, "/dependentRequired", "branches of anyOf"),
        ({"dependentSchemas": {"a": {}}}, "/dependentSchemas", "branches of anyOf"),
        ({"propertyNames": {"pattern": "^a"}}, "/propertyNames", "patternProperties"),
        ({"unevaluatedProperties": False}, "/unevaluatedProperties", "additionalProperties"),
        ({"unevaluatedItems": False}, "/unevaluatedItems", "write items"),
        ({"items": {"$dynamicRef": "#a"}}, "/items/$dynamicRef", "write $ref"),
        ({"items": {"$id": "https://example.com/b"}}, "/items/$id", "leave $id out"),
        ({"$ref": "#/x-types/a", "x-types": {"a": INT}}, "/$ref", "put what it names into $defs"),
        ({"oneOf": [INT, {"type": "number"}]}, "/oneOf", "branches 0 and 1 of oneOf may both hold"),
        ({"oneOf": [{"minLength": 2, **STR}, {"maxLength": 3, **STR}]}, "/oneOf", "write anyOf"),
        ({"oneOf": [CAT, {**CAT, "required": []}]}, "/oneOf", "may both hold"),
        (
            {"type": "object", "minProperties": 3, "required": ["a"]},
            "/minProperties",
            "name them in required",
        ),
        (
            {"patternProperties": {"^x": INT}, "additionalProperties": STR},
            "/additionalProperties",
            "write false",
        ),
        ({"$defs": {"a": {"not": {}}}}, "/$defs/a/not", "leave it out"),
    ],
)
def test_what_is_refused_with_its_place(schema: dict[str, Any], pointer: str, sentence: str) -> None:
    with pytest.raises(NotEnforceableError) as caught:
        to_enforceable(schema)
    assert caught.value.pointer == pointer
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "string", "const": 5}, "nothing satisfies it"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength (5) is greater than maxLength (3)"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "required property 'a'"),
        ({"type": "integer", "minimum": -1e30}, "beyond 64 bits"),
        ({"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 5}, "that none lies between"),
        ({"type": "string", "pattern": "^(?=a)"}, "look-around"),
        ({"type": "string", "pattern": r"\bfoo"}, r"\b nowhere"),
        ({"type": "integer", "multipleOf": 10**9 + 7}, "takes more time or memory"),
        (
            {"type": "object", "properties": {str(i): {"minimum": -(10**18)} | INT for i in range(1300)}},
            "takes",
        ),
    ],
)
def test_what_the_library_refuses(schema: dict[str, Any], sentence: str) -> None:
    assert sentence in explain(follow(schema).error)


def test_white_space_is_a_matter_of_choice() -> None:
    schema = {"type": "object", "properties": {"a": INT}}
    for answer, compact in (('{"a":1}', True), ('{ "a" : 1 }', False), ('{"a":1\n}', False)):
        assert follow(schema).takes(answer) is compact
        assert follow(schema, white_space=True).takes(answer)


def test_properties_are_written_in_their_order() -> None:
    schema = {"type": "object", "properties": {"z": INT, "a": INT}, "required": ["a", "z"]}
    assert permits(schema, '{"z":1,"a":2}')
    assert not permits(schema, '{"a":2,"z":1}')


def test_references_lead_to_where_the_schema_stands() -> None:
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"enum": [{"$ref": "#/kept"}]}}}
    moved = to_enforceable(schema, "/$defs/tool0").schema
    assert moved == {"$ref": "#/$defs/tool0/$defs/n", "$defs": {"n": {"enum": [{"$ref": "#/kept"}]}}}


@pytest.mark.parametrize(
    ("schema", "unique"),
    [
        ({"type": "array", "uniqueItems": True}, True),
        (
            {"properties": {"tags": {"anyOf": [{"type": "array", "uniqueItems": True}, {"type": "null"}]}}},
            True,
        ),
        ({"type": "array", "uniqueItems": False}, False),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, False),
    ],
)
def test_what_is_looked_at_afterwards(schema: dict[str, Any], unique: bool) -> None:
    assert to_enforceable(schema).unique is unique
