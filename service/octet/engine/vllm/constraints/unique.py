"""uniqueItems, the one thing about an answer that can only be looked at when it is whole."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from octet.engine.types import Delta, TextDelta, ToolCallDelta
from octet.engine.vllm.constraints.walk import Walk

# Looking at one keyword takes some ten microseconds.
_MAX_STEPS = 20_000


class _TooMuchError(Exception):
    """An answer takes more steps to look at than are spent on it."""


def canonical(value: Any) -> str:
    """A text that two JSON values share exactly if they are equal, as 1 and 1.0 are."""
    return json.dumps(_canonical(value), sort_keys=True)


class Watch:
    """Collects what is written of one candidate's answer, to look at when it is complete."""

    def __init__(self, schemas: Mapping[str | None, Mapping[str, Any]]) -> None:
        """`schemas` as in `octet.engine.vllm.constraints.request.Constraint.unique`."""
        self._schemas = schemas
        self._text: list[str] = []
        self._calls: list[tuple[str, list[str]]] = []

    def take(self, delta: Delta) -> None:
        """Notes what is added."""
        match delta:
            case TextDelta(_, text):
                self._text.append(text)
            case ToolCallDelta(_, call, _, name, arguments):
                if call == len(self._calls):
                    self._calls.append((name, []))
                self._calls[call][1].append(arguments)

    def keeps_unique(self) -> bool:
        """Whether all that was written keeps uniqueItems; takes a while."""
        # An answer that is calls has no text of the form.
        text = [(None, self._text)] if None in self._schemas and not self._calls else []
        return all(
            keeps_unique(self._schemas[name], "".join(pieces))
            for name, pieces in (*text, *self._calls)
            if name in self._schemas
        )


def keeps_unique(schema: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer that decoding held to a schema keeps its uniqueItems as well.

    Args:
        schema: the schema as the request gave it.
        answer: JSON text.

    Returns:
        False as well for an answer that takes too many steps to look at, or that is no JSON.
    """
    try:
        return bool(_validator(schema).is_valid(json.loads(answer)))
    except (_TooMuchError, RecursionError, ValueError):
        return False


def _validator(schema: Mapping[str, Any]) -> Any:
    steps = 0

    def counted(check: Callable[..., Any]) -> Callable[..., Any]:
        def look(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > _MAX_STEPS:
                raise _TooMuchError
            return check(validator, value, instance, schema)

        return look

    rules = {
        **Draft202012Validator.VALIDATORS,
        "uniqueItems": _unique,
        # jsonschema's own use Python's regular expressions, which may take forever.
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional,
    }
    del rules["format"]
    checks = {name: counted(rule) for name, rule in rules.items()}
    return extend(Draft202012Validator, checks)(dict(schema))  # type: ignore[no-untyped-call]


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if wanted and isinstance(instance, list) and len({canonical(item) for item in instance}) < len(instance):
        yield ValidationError("has items that are equal")


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError("does not match the pattern")


def _pattern_properties(
    validator: Any, patterns: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, others in patterns.items():
            for name in instance:
                if _matches(pattern, name):
                    yield from validator.descend(instance[name], others, path=name)


def _additional(validator: Any, others: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        patterns = schema.get("patternProperties", ())
        for name in instance.keys() - schema.get("properties", {}).keys():
            if not any(_matches(pattern, name) for pattern in patterns):
                yield from validator.descend(instance[name], others, path=name)


@lru_cache(maxsize=1024)
def _matches(pattern: str, text: str) -> bool:
    grammar = json.dumps({"grammars": [{"json_schema": {"type": "string", "pattern": pattern}}]})
    return Walk(grammar).takes(json.dumps(text, ensure_ascii=False))


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
