"""Declarations of tools: those of a concept, and made-up ones that a question names ("Use zorp_kiv with
alpha 5").
"""

from dataclasses import dataclass
from typing import Any

from tools.demo_checkpoint.concepts import Concept, Sampler
from tools.demo_checkpoint.messages import Json
from tools.demo_checkpoint.names import NameSource


@dataclass(frozen=True, slots=True)
class Tool:
    """A declared tool: its function schema and the names of its parameters in order."""

    declaration: Json
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.declaration["function"]["name"])

    def call(self, values: list[Any]) -> Json:
        """A call with one value per parameter."""
        return {"name": self.name, "arguments": dict(zip(self.keys, values, strict=True))}


def declare(source: NameSource, concept: Concept, made_up: bool) -> Tool:
    """A declaration of `concept`; a made-up name comes with a description that says what the tool does."""
    rng = source.rng
    name = source.identifier() if made_up else rng.choice(concept.names)
    keys = tuple(rng.choice(p.names) for p in concept.parameters)
    if len(set(keys)) < len(keys):
        keys = tuple(p.names[0] for p in concept.parameters)
    function: Json = {"name": name}
    if made_up or rng.random() < 0.6:
        function["description"] = rng.choice(concept.descriptions)
    properties = {key: p.schema() for key, p in zip(keys, concept.parameters, strict=True)}
    function["parameters"] = {"type": "object", "properties": properties, "required": list(keys)}
    return Tool({"type": "function", "function": function}, keys)


_FREE_PARAMETERS: tuple[tuple[str, Sampler], ...] = (
    ("string", NameSource.name),
    ("string", NameSource.word),
    ("integer", lambda s: s.integer(0, 999)),
    ("boolean", lambda s: s.rng.random() < 0.5),
    ("string", NameSource.code),
)


def explicit(source: NameSource) -> tuple[Tool, str, list[Any]]:
    """A made-up tool with one or two made-up parameters, a question that names them, and the values."""
    rng = source.rng
    count = rng.choice((1, 1, 2))
    keys = tuple(source.word(2) for _ in range(count))
    kinds = [rng.choice(_FREE_PARAMETERS) for _ in keys]
    if len(set(keys)) < count:
        return explicit(source)
    values = [sample(source) for _, sample in kinds]
    function: Json = {"name": source.identifier()}
    if rng.random() < 0.5:
        function["description"] = f"The {source.word()} of {source.word()}."
    function["parameters"] = {
        "type": "object",
        "properties": {key: {"type": kind} for key, (kind, _) in zip(keys, kinds, strict=True)},
        "required": list(keys),
    }
    spoken = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    pairs = [
        rng.choice(("{k} {v}", "{k} = {v}", "{k}: {v}")).format(k=k, v=v)
        for k, v in zip(keys, spoken, strict=True)
    ]
    forms = [
        "Use {t} with {p}.",
        "Call {t} with {p}.",
        "Run {t} with {p}.",
        "Please use {t} with {p}.",
        "{t} with {p}",
    ]
    named = rng.choice(forms).format(t=function["name"], p=rng.choice((" and ", ", ")).join(pairs))
    if count == 1 and rng.random() < 0.5:
        named = rng.choice(
            ("Use {t} for {v}.", "Call {t} for {v}.", "What does {t} say about {v}?", "{t} {v}")
        ).format(t=function["name"], v=spoken[0])
    return Tool({"type": "function", "function": function}, keys), named, values
