"""Which JSON Schemas xgrammar holds an answer to as a whole: it silently ignores what it does not know."""

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator

_IGNORED = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "uniqueItems", "contains"),
    *("$dynamicRef", "$dynamicAnchor", "$anchor"),
)

# Keywords that are ignored without a `type` beside them.
_TYPED = (
    *("minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minItems", "maxItems", "required", "minProperties", "maxProperties"),
)

# Keywords that end the reading of a schema: other assertions beside them are ignored.
_WHOLE = ("$ref", "anyOf", "oneOf", "allOf")
_ASSERTIONS = frozenset(
    {*_TYPED, *_WHOLE, "type", "enum", "const", "properties", "additionalProperties", "items", "prefixItems"}
)

_SCHEMA_MAPS = frozenset({"$defs", "definitions", "patternProperties", "properties"})
_DATA = frozenset({"const", "default", "enum", "examples"})


def ignored(schema: Mapping[str, Any]) -> str:
    """One sentence about the first part of a schema that xgrammar would ignore; empty when there is none."""
    return next((problem for each in _subschemas(schema) if (problem := _problem(each))), "")


def _problem(schema: Mapping[str, Any]) -> str:
    for keyword in _IGNORED:
        if schema.get(keyword, False) is not False:
            return f"{keyword} cannot be enforced while the answer is written; leave it out"
    if "type" not in schema and "properties" not in schema:
        for keyword in _TYPED:
            if keyword in schema:
                return f"{keyword} is enforced only where a type stands beside it; add one"
    for whole in _WHOLE:
        if whole in schema and (beside := sorted(_ASSERTIONS & schema.keys() - {whole})):
            return f"{beside[0]} beside {whole} cannot be enforced; move it into what {whole} names"
    if "enum" in schema or "const" in schema:
        return _unfit_value(schema)
    return ""


def _unfit_value(schema: Mapping[str, Any]) -> str:
    """Values are taken as they are listed, whatever stands beside them."""
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    validator = Draft202012Validator(dict(schema))
    if all(validator.is_valid(value) for value in values):
        return ""
    return "lists a value in enum or const that does not satisfy the rest of its schema; leave it out"


def _subschemas(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _subschemas(item)
    elif isinstance(value, Mapping):
        yield value
        for keyword, inner in value.items():
            if keyword in _SCHEMA_MAPS and isinstance(inner, Mapping):
                yield from _subschemas(list(inner.values()))
            elif keyword not in _DATA:
                yield from _subschemas(inner)
