"""Schemas, regular expressions and grammars: what clients send, what is refused, and what costs much."""

import json
from functools import cache
from typing import Any

from hypothesis import strategies as st

_NAMES = st.sampled_from(["a", "b", "answer", "é", "", "a/b~c", "$ref", "x" * 200])
_NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([0.1, 1e18, -1e18, 1e-9, 2**63, 1.5]),
    st.floats(allow_nan=False, allow_infinity=False),
)
_COUNTS = st.sampled_from([0, 1, 2, 3, 10, 1000, 100_000, -1, 1.5, 2**40])
_FORMATS = st.sampled_from(
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid", "byte", "x"]
)
_TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
_VALUES = st.sampled_from([None, True, 0, 1, -1.5, "a", "", "é\n", [], [1], {}, {"a": 1}])
_REFERENCES = st.sampled_from(
    ["#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/nowhere", "http://x/y", "#anchor"]
)

_ATOMS = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "\\d",
        "\\w",
        "\\p{L}",
        "[a-z]",
        "[^a]",
        "[[:alpha:]]",
        "é",
        " ",
        "\\n",
        "^",
        "$",
        "\\b",
        "\\\\",
        "(?i)a",
        "\\x{41}",
        "(?=a)",
        "(?<!a)",
        "\\1",
        "[",
        "]",
        "\\",
        "{",
        "[z-a]",
        "\\u0041",
        "\\pN",
        "(?P<n>a)",
        "(?:a)",
        "\\Q",
        "\\xff",
    ]
)
_COUNTED = st.sampled_from(["*", "+", "?", "{2}", "{0,3}", "{1000}", "{3,1}", "*?", "{,2}", "{99999}", "**"])


@cache
def regexes() -> st.SearchStrategy[str]:
    """Regular expressions, most of them ones of Rust's."""
    made = st.recursive(
        _ATOMS,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.tuples(inner, inner).map("|".join),
            st.tuples(inner, _COUNTED).map(lambda pair: f"({pair[0]}){pair[1]}"),
        ),
        max_leaves=6,
    )
    many = st.tuples(made, st.sampled_from([1, 1, 1, 5, 200, 3000])).map(lambda pair: pair[0] * pair[1])
    return st.one_of(many, st.text(alphabet="ab.*+?()[]{}|\\^$-,0:<=!é", max_size=16))


_TERMINALS = st.sampled_from(
    [
        '"a"',
        '"yes"',
        '""',
        '"\\n"',
        '"\\x41"',
        '"\\u00e9"',
        "[a-z]",
        "[^a]",
        "[]",
        "[a",
        '"a',
        ".",
        "'a'",
        "[\\]]",
        "/a/",
        "<b>",
        "(",
        "#",
    ]
)
_RULES = ("root", "a", "b", "e1")
_BODIES = st.recursive(
    st.one_of(_TERMINALS, st.sampled_from(_RULES)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        st.lists(inner, min_size=1, max_size=3).map(" | ".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,400}", "{0,10000}", "{2,1}", "**"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@st.composite
def grammars(draw: st.DrawFn) -> str:
    """Grammars of a few rules, some of which lead nowhere, back to the left, or everywhere at once."""
    names = draw(st.lists(st.sampled_from(_RULES), min_size=1, max_size=4, unique=True))
    times = draw(st.sampled_from([1, 1, 1, 1, 40, 900]))
    lines = [
        f"{name} ::= {draw(_BODIES)}{' ' + draw(_BODIES) * times if times > 1 else ''}" for name in names
    ]
    text = draw(st.sampled_from(["\n", "\n\n# why\n", " ", "\r\n"])).join(lines)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1]))):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(["", '"', "|", "::=", "]", "\\", "\0", "é", "%", ";"]))
            + text[at + 1 :]
        )
    return text


@cache
def _keywords(inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "type": st.one_of(_TYPES, st.lists(_TYPES, max_size=3)),
        "enum": st.lists(_VALUES, max_size=3),
        "const": _VALUES,
        "properties": st.dictionaries(_NAMES, inner, max_size=3),
        "patternProperties": st.dictionaries(regexes(), inner, max_size=2),
        "additionalProperties": inner,
        "required": st.lists(_NAMES, max_size=2, unique=True),
        "items": inner,
        "prefixItems": st.lists(inner, max_size=3),
        "minItems": _COUNTS,
        "maxItems": _COUNTS,
        "minLength": _COUNTS,
        "maxLength": _COUNTS,
        "minProperties": _COUNTS,
        "maxProperties": _COUNTS,
        "minimum": _NUMBERS,
        "maximum": _NUMBERS,
        "exclusiveMinimum": _NUMBERS,
        "exclusiveMaximum": _NUMBERS,
        "multipleOf": _NUMBERS,
        "pattern": regexes(),
        "format": _FORMATS,
        "uniqueItems": st.booleans(),
        "allOf": st.lists(inner, max_size=3),
        "anyOf": st.lists(inner, max_size=3),
        "oneOf": st.lists(inner, max_size=3),
        "$ref": _REFERENCES,
        "$defs": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
        "not": inner,
        "if": inner,
        "contains": inner,
        "dependentRequired": st.dictionaries(_NAMES, st.lists(_NAMES, max_size=1), max_size=1),
        "unevaluatedProperties": inner,
        "title": st.text(max_size=5),
        "default": _VALUES,
        "$schema": st.sampled_from(
            ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
        ),
        "x-guidance": st.just({}),
        "x-order": st.integers(),
    }


@cache
def _chosen(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(_keywords(inner))), min_size=1, max_size=4, unique=True)


@st.composite
def _assertions(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    """A schema of a few keywords."""
    keywords = _keywords(inner)
    return {keyword: draw(keywords[keyword]) for keyword in draw(_chosen(inner))}


@cache
def _properties(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(_NAMES, inner, max_size=3)


@st.composite
def _plausible(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    """A schema as programs have them, of one type with keywords of that type."""
    kind = draw(_TYPES)
    if kind == "object":
        properties = draw(_properties(inner))
        required = draw(st.lists(st.sampled_from([*properties, "b"]), max_size=2, unique=True))
        return {
            "type": kind,
            "properties": properties,
            "required": required,
            **draw(
                st.sampled_from(
                    [{}, {}, {"additionalProperties": False}, {"maxProperties": 2}, {"minProperties": 2}]
                )
            ),
        }
    if kind == "array":
        return {
            "type": kind,
            "items": draw(inner),
            **draw(
                st.sampled_from([{}, {"minItems": 1, "maxItems": 3}, {"uniqueItems": True, "maxItems": 4}])
            ),
        }
    return {
        "type": kind,
        **draw(
            st.sampled_from(
                [
                    {},
                    {"minimum": 0, "maximum": 10},
                    {"maxLength": 5},
                    {"pattern": "^[a-z]+$", "maxLength": 3},
                    {"enum": ["a", 1, None]},
                    {"format": "date"},
                    {"multipleOf": 5},
                    {"minimum": -1e18, "maximum": 1e18},
                    {"multipleOf": 0.1},
                ]
            )
        ),
    }


@cache
def schemas() -> st.SearchStrategy[Any]:
    """JSON Schemas that are objects."""
    return st.recursive(
        st.one_of(
            _plausible(st.just({})), _assertions(st.just(True)), st.just({}), st.just({"type": "string"})
        ),
        lambda inner: st.one_of(_plausible(inner), _assertions(inner)),
        max_leaves=6,
    )


@st.composite
def schema_texts(draw: st.DrawFn) -> str:
    """Schemas as JSON text."""
    schema = draw(schemas())
    form = draw(st.integers(0, 7))
    if form == 0:
        depth = draw(st.sampled_from([5, 23, 24, 25, 200]))
        for _ in range(depth):
            schema = {"type": "array", "items": schema}
    if form == 1:
        schema = {
            "type": "object",
            "properties": {f"p{i}": schema for i in range(draw(st.sampled_from([100, 900])))},
        }
    text = json.dumps(schema, ensure_ascii=draw(st.booleans()))
    if form == 2:
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(["", ",", "\\", '"', "NaN", "1e400", "\\ud800"]))
            + text[at + 1 :]
        )
    return text
