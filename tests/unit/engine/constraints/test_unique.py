"""uniqueItems in answers that are complete."""

import json
from typing import Any

import pytest

from octet.engine.types import TextDelta, ToolCallDelta
from octet.engine.vllm.constraints.unique import Watch, keeps_unique

SET = {"type": "array", "uniqueItems": True}
NESTED = {
    "properties": {"a": {"$ref": "#/$defs/s"}},
    "patternProperties": {"^x": SET},
    "additionalProperties": {"anyOf": [{"type": "string"}, {"items": SET, "type": "array"}]},
    "$defs": {"s": SET},
}


@pytest.mark.parametrize(
    ("schema", "answer", "kept"),
    [
        (SET, "[1, 2]", True),
        (SET, "[1, 1.0]", False),
        (SET, "[1, true, 0, false]", True),
        (SET, '[{"a": 1, "b": 2}, {"b": 2, "a": 1}]', False),
        (SET, "[[1], [1]]", False),
        (NESTED, '{"a": ["b", "b"]}', False),
        (NESTED, '{"x1": [1, 1]}', False),
        (NESTED, '{"other": [[1], [1]]}', True),
        (NESTED, '{"other": [[1, 1]]}', False),
        (
            {"anyOf": [SET, {"type": "array", "items": {"type": "string", "pattern": "^b"}}]},
            '["b", "b"]',
            True,
        ),
        (
            {"anyOf": [SET, {"type": "array", "items": {"type": "string", "pattern": "^b"}}]},
            '["a", "a"]',
            False,
        ),
        # What nobody can look at is not said to be kept.
        (SET, "[1, 2", False),
        (SET, "[" * 100_000 + "]" * 100_000, False),
        ({"items": {"$ref": "#"}, "anyOf": [{"items": {"$ref": "#"}}, SET]}, "[" * 300 + "]" * 300, False),
    ],
)
def test_answers(schema: dict[str, Any], answer: str, kept: bool) -> None:
    assert keeps_unique(schema, answer) is kept


def test_patterns_do_not_take_forever() -> None:
    schema = {"items": {"type": "string", "pattern": "^(a+)+$"}, **SET}
    assert keeps_unique(schema, json.dumps(["a" * 4000]))
    assert not keeps_unique(schema, json.dumps(["a" * 4000 + "b"]))


def test_text_and_calls_are_put_together() -> None:
    watch = Watch({None: SET})
    for text in ("[1,", " 2]"):
        watch.take(TextDelta(0, text))
    assert watch.keeps_unique()
    watch = Watch({"f": {"properties": {"a": SET}}})
    for call, name, piece in ((0, "g", '{"a":[1,1]}'), (1, "f", '{"a":[1'), (1, "", ",1]}")):
        watch.take(ToolCallDelta(0, call, "", name, piece))
    assert not watch.keeps_unique()
