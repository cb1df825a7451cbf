"""JSON Schemas as llguidance enforces them whole: rewritten where it helps, refused where nothing does.

Whatever an answer held to the rewritten schema can be satisfies the original one. Annotations, unknown
keywords and unknown formats assert nothing (JSON Schema says so) and are left out.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from octet.engine.vllm.constraints.unique import canonical

FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}
)
"""Formats of strings that are enforced; all others are annotations."""

# What llguidance enforces as it stands, with no schemas inside.
_KEPT = frozenset(
    {
        *("type", "enum", "const", "required", "minProperties", "maxProperties", "minItems", "maxItems"),
        *("minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
)
# Keywords with schemas inside: a list of them, some by name, and a single one.
LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
MAPS = frozenset({"$defs", "definitions", "properties", "patternProperties"})
SINGLE = frozenset({"items", "additionalProperties"})

_REFUSED: Mapping[str, str] = {
    "not": "say what is allowed instead",
    "if": "write the cases as branches of anyOf",
    "contains": "describe all items with items, or the first ones with prefixItems",
    "dependentRequired": "write the cases as branches of anyOf",
    "dependentSchemas": "write the cases as branches of anyOf",
    "propertyNames": "write it as patternProperties, with additionalProperties false",
    "unevaluatedProperties": "write additionalProperties",
    "unevaluatedItems": "write items",
    "$dynamicRef": "write $ref",
    "$recursiveRef": "write $ref",
}

# Of the refused ones, with values under which they assert nothing.
_VACUOUS: Mapping[str, Callable[[Any], bool]] = {
    "not": lambda value: value is False,
    "contains": lambda value: False,
    "dependentRequired": lambda value: not any(value.values()),
    "dependentSchemas": lambda value: not value,
    "propertyNames": lambda value: value in (True, {}, {"type": "string"}),
    "unevaluatedProperties": lambda value: value in (True, {}),
    "unevaluatedItems": lambda value: value in (True, {}),
}

# How deep references and branches are followed to tell alternatives apart, and of how many.
_DEPTH_TOLD_APART = 6
_MAX_TOLD_APART = 128


class NotEnforceableError(Exception):
    """A part of a schema that an answer cannot be held to.

    Attributes:
        pointer: JSON pointer of the part; empty for the whole schema.
        message: a sentence that says why, and what to write instead.
    """

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} (at {self.pointer or 'its root'})"


@dataclass(frozen=True, slots=True)
class Enforceable:
    """A schema for llguidance.

    Attributes:
        schema: what decoding is held to.
        unique: whether the original asks for uniqueItems, which can only be looked at in a whole answer.
    """

    schema: dict[str, Any]
    unique: bool


def to_enforceable(schema: Mapping[str, Any], place: str = "") -> Enforceable:
    """Rewrites a well-formed schema (draft 2020-12).

    Args:
        schema: the schema.
        place: JSON pointer of where it will stand in another one.

    Raises:
        NotEnforceableError: at the first part that cannot be enforced.
    """
    rewriter = _Rewriter(schema, place)
    rewritten = rewriter.rewrite(schema, "")
    rewriter.check_references()
    if not isinstance(rewritten, dict):
        rewritten = {} if rewritten else {"enum": []}
    return Enforceable(rewritten, rewriter.unique)


class _Rewriter:
    def __init__(self, root: Mapping[str, Any], place: str) -> None:
        self._root = root
        self._place = place
        self._anchors = dict(_anchors(root, ""))
        self._places: set[str] = set()
        self._references: dict[str, str] = {}
        self.unique = False

    def rewrite(self, schema: Any, at: str) -> Any:
        """The schema at the pointer `at`, rewritten with everything in it."""
        self._places.add(at)
        if not isinstance(schema, Mapping):
            return bool(schema)
        self._refuse(schema, at)
        rewritten: dict[str, Any] = {}
        for keyword, value in schema.items():
            inner = f"{at}/{escaped(keyword)}"
            if keyword in _KEPT:
                rewritten[keyword] = value
            elif keyword == "$ref":
                rewritten[keyword] = self._reference(value, inner)
            elif keyword in LISTS:
                rewritten[keyword] = [self.rewrite(item, f"{inner}/{i}") for i, item in enumerate(value)]
            elif keyword in MAPS:
                rewritten[keyword] = {
                    name: self.rewrite(item, f"{inner}/{escaped(name)}") for name, item in value.items()
                }
            elif keyword in SINGLE:
                rewritten[keyword] = self.rewrite(value, inner)
        if rewritten.get("format") not in FORMATS:
            rewritten.pop("format", None)
        self._tell_apart(schema, rewritten, at)
        self._close_names(rewritten, at)
        self._count_properties(rewritten, at)
        if schema.get("uniqueItems") and rewritten.get("maxItems", 2) > 1:
            self.unique = True
        return rewritten

    def check_references(self) -> None:
        """Raises NotEnforceableError for a reference to a place that holds no schema."""
        for at, target in self._references.items():
            if target not in self._places:
                raise NotEnforceableError(at, f"#{target} is no schema; put what it names into $defs")

    def _refuse(self, schema: Mapping[str, Any], at: str) -> None:
        for keyword, instead in _REFUSED.items():
            if keyword not in schema or _VACUOUS.get(keyword, lambda value: False)(schema[keyword]):
                continue
            if keyword == "if" and not {"then", "else"} & schema.keys():
                continue
            raise NotEnforceableError(
                f"{at}/{keyword}",
                f"{keyword} cannot be enforced while the answer is written; {instead}, or leave it out",
            )
        if at and "$id" in schema:
            raise NotEnforceableError(
                f"{at}/$id", "a schema of its own inside of another cannot be enforced; leave $id out"
            )

    def _reference(self, value: str, at: str) -> str:
        target = self._target(value)
        self._references[at] = target
        return f"#{quote(self._place + target, safe='/$')}"

    def _target(self, reference: str) -> str:
        """The pointer that a reference means: a URI's fragment, maybe percent-encoded, or an anchor."""
        return self._anchors[reference] if reference in self._anchors else unquote(reference[1:])

    def _tell_apart(self, schema: Mapping[str, Any], rewritten: dict[str, Any], at: str) -> None:
        """oneOf as anyOf, which it equals where no two branches can hold together."""
        if "oneOf" not in rewritten:
            return
        branches = schema["oneOf"]
        if len(branches) > _MAX_TOLD_APART:
            raise NotEnforceableError(
                f"{at}/oneOf", f"has more than {_MAX_TOLD_APART} branches; write anyOf if any may hold"
            )
        for i, left in enumerate(branches):
            for k in range(i + 1, len(branches)):
                if not self._disjoint(left, branches[k], _DEPTH_TOLD_APART):
                    raise NotEnforceableError(
                        f"{at}/oneOf",
                        f"branches {i} and {k} of oneOf may both hold, and one alone cannot be enforced; "
                        "write anyOf, or tell them apart by type or by a required property with const",
                    )
        one = {"anyOf": rewritten.pop("oneOf")}
        if "anyOf" in rewritten:
            rewritten["allOf"] = [*rewritten.get("allOf", ()), one]
        else:
            rewritten |= one

    def _disjoint(self, left: Any, right: Any, depth: int) -> bool:
        """Whether no value satisfies both; False where that is not obvious."""
        if left is False or right is False:
            return True
        if depth == 0 or not isinstance(left, Mapping) or not isinstance(right, Mapping):
            return False
        for one, other in ((left, right), (right, left)):
            if "$ref" in one and self._disjoint(self._resolved(one["$ref"]), other, depth - 1):
                return True
            for branch in one.get("allOf", ()):
                if self._disjoint(branch, other, depth - 1):
                    return True
            for keyword in ("anyOf", "oneOf"):
                branches = one.get(keyword, ())
                if branches and all(self._disjoint(branch, other, depth - 1) for branch in branches):
                    return True
        types, values = (_types(left), _types(right)), (_values(left), _values(right))
        if not types[0] & types[1]:
            return True
        if values[0] is not None and values[1] is not None:
            return not set(values[0]) & set(values[1])
        if types[0] & types[1] != {"object"}:
            return False
        shared = set(left.get("required", ())) & set(right.get("required", ()))
        properties = left.get("properties", {}), right.get("properties", {})
        return any(
            self._disjoint(properties[0][name], properties[1][name], depth - 1)
            for name in shared
            if name in properties[0] and name in properties[1]
        )

    def _resolved(self, reference: str) -> Any:
        place: Any = self._root
        for part in self._target(reference).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            place = place[int(name) if isinstance(place, Sequence) else name]
        return place

    def _close_names(self, rewritten: dict[str, Any], at: str) -> None:
        r"""Keeps names of properties from being written in disguise.

        Beside listed names, llguidance lets any other name be written with escapes (\u0061 for a), and so a
        listed one with a value of another kind. Names that match a pattern have no escapes.
        """
        listed, patterns = rewritten.get("properties", {}), rewritten.get("patternProperties", {})
        others = rewritten.get("additionalProperties", True)
        if others is False or not (listed or patterns):
            return
        if patterns:
            if others not in (True, {}):
                raise NotEnforceableError(
                    f"{at}/additionalProperties",
                    "a schema for names that match none of patternProperties cannot be enforced; write false",
                )
            # These would have been other names.
            unlisted = [name for name in rewritten.get("required", ()) if name not in listed]
            rewritten["properties"] = {**listed, **{name: {} for name in unlisted}}
        else:
            rewritten["patternProperties"] = (
                {"": {}} if others in (True, {}) else {_other_than(listed): others}
            )
        rewritten["additionalProperties"] = False

    def _count_properties(self, rewritten: dict[str, Any], at: str) -> None:
        """A name can be written twice: more names than are required, and one, cannot be counted on."""
        least, required = rewritten.get("minProperties", 0), len(set(rewritten.get("required", ())))
        if least <= required:
            rewritten.pop("minProperties", None)
        elif least > required + 1:
            raise NotEnforceableError(
                f"{at}/minProperties",
                f"{least} properties cannot be enforced where {required} are required; at most one more can, "
                "or name them in required",
            )


def _types(schema: Mapping[str, Any]) -> set[str]:
    every = {"array", "boolean", "integer", "null", "number", "object", "string"}
    if (values := _values(schema)) is not None:
        return {_type_of(value) for value in values}
    given = schema.get("type", every)
    types = {given} if isinstance(given, str) else set(given)
    return types | {"integer"} if "number" in types else types


def _type_of(canonical: str) -> str:
    kinds = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}
    return kinds.get(canonical[0], "integer" if re.fullmatch(r"-?\d+", canonical) else "number")


def _values(schema: Mapping[str, Any]) -> list[str] | None:
    """The values that enum or const list, in a form in which equal ones are the same text."""
    if "const" in schema:
        return [canonical(schema["const"])]
    return [canonical(value) for value in schema["enum"]] if "enum" in schema else None


def _other_than(names: Mapping[str, Any]) -> str:
    """A regular expression that matches every text but the names; as long as they are together."""
    tree: dict[str, Any] = {}
    for name in names:
        place = tree
        for character in name:
            place = place.setdefault(character, {})
        place[""] = {}
    return f"^(?:{_other_than_in(tree)})$"


def _other_than_in(tree: Mapping[str, Any]) -> str:
    characters = [character for character in tree if character]
    cases = [f"{_literal(character)}(?:{_other_than_in(tree[character])})" for character in characters]
    if characters:
        cases.append(f"[^{''.join(_literal(character) for character in characters)}](?s:.)*")
    else:
        cases.append("(?s:.)+")
    if "" not in tree:
        cases.append("")
    return "|".join(cases)


def _literal(character: str) -> str:
    return character if character.isalnum() else f"\\x{{{ord(character):x}}}"


def _anchors(schema: Any, at: str) -> Iterator[tuple[str, str]]:
    """The anchors in a schema, as references to them, and their places."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("$anchor"), str):
            yield f"#{schema['$anchor']}", at
        for keyword, value in schema.items():
            inner = f"{at}/{escaped(keyword)}"
            if keyword in LISTS:
                for i, item in enumerate(value):
                    yield from _anchors(item, f"{inner}/{i}")
            elif keyword in MAPS:
                for name, item in value.items():
                    yield from _anchors(item, f"{inner}/{escaped(name)}")
            elif keyword in SINGLE:
                yield from _anchors(value, inner)


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
