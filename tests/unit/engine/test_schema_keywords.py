"""What xgrammar would ignore of a schema, and that it does."""

import json
from typing import Any

import pytest
import xgrammar

from octet.engine.vllm.schema_keywords import ignored


def xgrammar_accepts(schema: dict[str, Any], text: str) -> bool:
    vocabulary = [bytes([byte]) for byte in range(256)]
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([*vocabulary, b"<eos>"], stop_token_ids=[256]))
    matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(schema)))
    return bool(matcher.accept_string(text) and matcher.accept_token(256))


@pytest.mark.parametrize(
    ("schema", "violation", "problem"),
    [
        ({"type": "integer", "not": {"const": 5}}, "5", "not cannot be enforced"),
        (
            {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            "[1, 1]",
            "uniqueItems cannot",
        ),
        (
            {"type": "object", "dependentRequired": {"a": ["b"]}, "properties": {"a": {}, "b": {}}},
            '{"a": 1}',
            "dependentRequired cannot",
        ),
        ({"minimum": 3}, "1", "minimum is enforced only where a type"),
        ({"pattern": "^a+$"}, '"b"', "pattern is enforced only"),
        ({"required": ["a"]}, "{}", "required is enforced only"),
        ({"anyOf": [{"type": "string"}], "maxLength": 1, "type": "string"}, '"ab"', "maxLength beside anyOf"),
        ({"type": "string", "enum": [1, "x"]}, "1", "lists a value in enum or const"),
        ({"const": 5, "type": "string"}, "5", "lists a value in enum or const"),
        (
            {"type": "object", "properties": {"a": {"multipleOf": 3}}, "required": ["a"]},
            '{"a": 5}',
            "multipleOf is enforced only",
        ),
    ],
)
def test_what_is_ignored(schema: dict[str, Any], violation: str, problem: str) -> None:
    assert xgrammar_accepts(schema, violation)
    assert problem in ignored(schema)


@pytest.mark.parametrize(
    ("schema", "violation"),
    [
        ({"type": "object", "properties": {"a": {"type": "string", "maxLength": 2}}}, '{"a": "abc"}'),
        ({"properties": {"a": {"type": "integer"}}, "required": ["a"]}, '{"a": "x"}'),
        ({"type": "string", "enum": ["a", "b"], "description": "One."}, '"c"'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "T"}, "1"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": {"not": 1}}}}, "1"),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1, "uniqueItems": False}, "[1, 2]"),
    ],
)
def test_what_is_enforced(schema: dict[str, Any], violation: str) -> None:
    assert ignored(schema) == ""
    assert not xgrammar_accepts(schema, violation)
