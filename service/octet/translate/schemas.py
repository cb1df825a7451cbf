"""JSON Schemas of requests: whether they are ones, in bounded time."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from google.protobuf.struct_pb2 import Struct
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from octet.errors import InvalidRequestError
from octet.translate.values import parse_json_object, struct_to_dict

MAX_SCHEMA_BYTES = 128 * 1024
# Checking a subschema takes a quarter of a millisecond.
MAX_SUBSCHEMAS = 4096

# Keywords whose value maps names to schemas, and those whose value is data and holds no schema.
_SCHEMA_MAPS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_DATA = frozenset({"const", "default", "enum", "examples"})
_REFERENCES = ("$ref", "$dynamicRef")
_NUM_TYPES = 7

# Characters of a schema that an error quotes.
_MAX_QUOTE = 200

# Without formats, so that regular expressions are left to the engine, whose dialect is not Python's.
_META_VALIDATOR = Draft202012Validator(Draft202012Validator.META_SCHEMA)


class SchemaReader:
    """Checks and converts the schemas of one request, which share a limit of `MAX_SUBSCHEMAS`."""

    def __init__(self) -> None:
        self._subschemas = 0

    def read(self, struct: Struct, field: str) -> dict[str, Any]:
        """Gives a JSON Schema (draft 2020-12) as Python values.

        Raises:
            InvalidRequestError: at `field`, when it is none, is too large or nested too deeply, or refers to
                something outside itself.
        """
        if struct.ByteSize() > MAX_SCHEMA_BYTES:
            raise InvalidRequestError(
                field, f"has {struct.ByteSize()} bytes, more than the limit of {MAX_SCHEMA_BYTES}"
            )
        try:
            schema = struct_to_dict(struct)
        except ValueError as error:
            raise InvalidRequestError(field, f"is not JSON: {error}") from error
        self._check(schema, field)
        return schema

    def read_text(self, text: str, field: str) -> dict[str, Any]:
        """Gives a JSON Schema that comes as JSON text, in its own order; `read` tells the rest."""
        size = len(text.encode())
        if size > MAX_SCHEMA_BYTES:
            raise InvalidRequestError(field, f"has {size} bytes, more than the limit of {MAX_SCHEMA_BYTES}")
        try:
            schema = parse_json_object(text, strict=True)
        except ValueError as error:
            raise InvalidRequestError(field, str(error)) from error
        self._check(schema, field)
        return schema

    def _check(self, schema: dict[str, Any], field: str) -> None:
        self._subschemas += sum(1 for _ in _subschemas(schema))
        if self._subschemas > MAX_SUBSCHEMAS:
            raise InvalidRequestError(
                field, f"takes the schemas of the request to more than {MAX_SUBSCHEMAS} subschemas"
            )
        if problem := _problem(json.dumps(schema)):
            raise InvalidRequestError(field, f"is not a JSON Schema of draft 2020-12: {problem}")


@lru_cache(maxsize=256)
def _problem(text: str) -> str:
    """What is wrong with a schema, or nothing. Clients send the same tools with every request."""
    schema = json.loads(text)
    # What the validator would take quadratic time to find comes first.
    if problem := _type_problem(schema):
        return problem
    error: ValidationError | None = next(_META_VALIDATOR.iter_errors(schema), None)
    if error is not None:
        return _explain(error)
    return _reference_problem(schema)


def _type_problem(schema: Mapping[str, Any]) -> str:
    for subschema in _subschemas(schema):
        types = subschema.get("type")
        if isinstance(types, list) and len(types) > _NUM_TYPES:
            return f"a type lists {len(types)} names, and there are {_NUM_TYPES}"
        if "dependencies" in subschema:
            return "dependencies became dependentRequired and dependentSchemas"
    return ""


def _explain(error: ValidationError) -> str:
    # For alternatives (a `type` is one name or a list of them) the first one's message says more.
    message = error.context[0].message if error.context else error.message
    if len(message) > _MAX_QUOTE:
        message = f"{message[:_MAX_QUOTE]}..."
    return f"{message} (at {error.json_path})"


def _reference_problem(schema: Mapping[str, Any]) -> str:
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for subschema in _subschemas(schema):
        for reference in (subschema[keyword] for keyword in _REFERENCES if keyword in subschema):
            if not isinstance(reference, str) or not reference.startswith("#"):
                return f"{reference!r:.{_MAX_QUOTE}} refers to another document; put what it names into $defs"
            if reference.startswith("#/"):
                try:
                    resolver.lookup(reference)
                except (Unresolvable, TypeError, ValueError):
                    return f"{reference!r:.{_MAX_QUOTE}} refers to nothing in the schema"
    return ""


def _subschemas(value: object) -> Iterator[dict[str, Any]]:
    """Gives the schemas in `value`, itself first; works on what is not yet known to be a schema, too."""
    if isinstance(value, list):
        for item in value:
            yield from _subschemas(item)
    elif isinstance(value, bool):
        # A schema in full, counted as an empty one.
        yield {}
    elif isinstance(value, dict):
        yield value
        for keyword, inner in value.items():
            if keyword in _SCHEMA_MAPS and isinstance(inner, dict):
                yield from _subschemas(list(inner.values()))
            elif keyword not in _DATA:
                yield from _subschemas(inner)
