"""Whatever passes the check is enforced: random schemas, random answers of those permitted, a validator."""

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.schema import NotEnforceableError, to_enforceable
from octet.engine.vllm.constraints.unique import keeps_unique
from octet.engine.vllm.constraints.walk import Walk

NAMES = ("a", "b", "x1", "q/~ %")
TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
PATTERNS = ("^[a-c]+$", "a", "^x", "b$", "^$", "^a|b$", r"^\d{2}", "^[^a]*$")
PLAIN: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -2,
    1.5,
    3.0,
    "",
    "a",
    "ab",
    "é\n",
    [],
    [1, 1.0],
    {"a": 1},
    {"b": []},
)


class Schemas:
    """Makes schemas out of a few keywords each, so that most can be satisfied."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def schema(self, depth: int = 3) -> Any:
        rng = self.rng
        if depth == 0 or rng.random() < 0.1:
            return rng.choice([True, {}, {"type": rng.choice(TYPES)}, {"type": rng.choice(TYPES)}])
        schema: dict[str, Any] = {}
        if rng.random() < 0.6:
            schema["type"] = rng.choice(TYPES) if rng.random() < 0.7 else rng.sample(TYPES, 2)
        kinds = [
            self.numbers,
            self.strings,
            self.objects,
            self.arrays,
            self.branches,
            self.values,
            self.notes,
        ]
        for kind in rng.sample(kinds, rng.choice([1, 1, 2, 3])):
            kind(schema, depth - 1)
        return schema

    def some(self, schema: dict[str, Any], most: int, **choices: Any) -> None:
        for name in self.rng.sample(sorted(choices), self.rng.randint(1, most)):
            schema[name] = choices[name]()

    def numbers(self, schema: dict[str, Any], depth: int) -> None:
        def small() -> float:
            return self.rng.choice([-3, -1, 0, 0.5, 1, 2, 4])

        self.some(
            schema,
            2,
            minimum=small,
            maximum=small,
            exclusiveMinimum=small,
            exclusiveMaximum=small,
            multipleOf=lambda: self.rng.choice([2, 3, 0.5]),
        )

    def strings(self, schema: dict[str, Any], depth: int) -> None:
        self.some(
            schema,
            2,
            minLength=lambda: self.rng.randint(0, 2),
            maxLength=lambda: self.rng.randint(1, 4),
            pattern=lambda: self.rng.choice(PATTERNS),
            format=lambda: self.rng.choice(["date", "ipv4", "uuid", "password", "int64"]),
        )

    def objects(self, schema: dict[str, Any], depth: int) -> None:
        def names() -> list[str]:
            return self.rng.sample(NAMES, self.rng.randint(0, 2))

        self.some(
            schema,
            3,
            properties=lambda: {name: self.schema(depth) for name in self.rng.sample(NAMES, 2)},
            patternProperties=lambda: {self.rng.choice(PATTERNS): self.schema(depth)},
            additionalProperties=lambda: self.schema(depth) if self.rng.random() < 0.5 else False,
            required=names,
            minProperties=lambda: self.rng.randint(0, 3),
            maxProperties=lambda: self.rng.randint(0, 3),
            propertyNames=lambda: {"pattern": "^a"},
            dependentRequired=lambda: {"a": ["b"]},
        )

    def arrays(self, schema: dict[str, Any], depth: int) -> None:
        self.some(
            schema,
            3,
            items=lambda: self.schema(depth),
            prefixItems=lambda: [self.schema(depth) for _ in range(self.rng.randint(1, 2))],
            minItems=lambda: self.rng.randint(0, 2),
            maxItems=lambda: self.rng.randint(0, 3),
            uniqueItems=lambda: True,
            contains=lambda: {"const": 1},
        )

    def branches(self, schema: dict[str, Any], depth: int) -> None:
        def some() -> list[Any]:
            return [self.schema(depth) for _ in range(self.rng.randint(1, 2))]

        self.some(
            schema,
            1,
            anyOf=some,
            oneOf=some,
            allOf=some,
            **{"$ref": lambda: "#/$defs/one", "not": lambda: self.schema(0)},
        )

    def values(self, schema: dict[str, Any], depth: int) -> None:
        self.some(schema, 1, enum=lambda: self.rng.sample(PLAIN, 3), const=lambda: self.rng.choice(PLAIN))

    def notes(self, schema: dict[str, Any], depth: int) -> None:
        self.some(schema, 2, title=lambda: "t", example=lambda: 1, **{"x-note": lambda: {"not": {}}})


def answers(schema: dict[str, Any], seeds: int, most: int = 160) -> list[str]:
    """Answers that decoding permits and that end; none where the schema is refused."""
    try:
        enforceable = to_enforceable(schema)
    except NotEnforceableError:
        return []
    walk = Walk(grammars.of_schema(enforceable.schema, separators=(",", ":"), white_space=False))
    found = []
    for seed in range(seeds):
        written, ended = walk.sample(seed, most)
        if walk.error:
            break
        if ended and (not enforceable.unique or keeps_unique(schema, written.decode())):
            found.append(written.decode())
    return found


@pytest.mark.parametrize("part", range(5))
def test_what_is_written_satisfies_the_schema(part: int) -> None:
    looked_at = 0
    for seed in range(part * 100, part * 100 + 100):
        schemas = Schemas(seed)
        schema = schemas.schema()
        if not isinstance(schema, dict):
            continue
        schema = {**schema, "$defs": {"one": schemas.schema(1)}}
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError:
            continue
        validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        for answer in answers(schema, 5):
            looked_at += 1
            assert validator.is_valid(json.loads(answer)), (seed, json.dumps(schema), answer)
    assert looked_at > 50
