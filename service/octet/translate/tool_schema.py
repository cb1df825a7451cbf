"""The JSON Schema of answers that consist of tool calls; decoding is held to it when calls are demanded."""

from collections.abc import Mapping, Sequence
from typing import Any

from octet.engine.types import Tool, ToolChoice, ToolChoiceMode


def offered(tools: Sequence[Tool], choice: ToolChoice) -> list[int]:
    """Which of a request's tools its choice leaves, by their places in it."""
    if choice.mode is ToolChoiceMode.NONE:
        return []
    wanted = (choice.name,) if choice.mode is ToolChoiceMode.NAMED else choice.allowed_names
    return [i for i, tool in enumerate(tools) if not wanted or tool.name in wanted]


def place(i: int) -> str:
    """JSON pointer of the parameters' schema of the request's tool `i` in what `calls_schema` gives."""
    return f"/$defs/tool{i}"


def calls_schema(
    tools: Sequence[Tool], choice: ToolChoice, parameters: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """The JSON Schema of an answer that consists of calls: any, or exactly one where that is demanded.

    Args:
        tools: the request's tools.
        choice: the choice among them.
        parameters: the schemas of the offered ones, with references that lead into `place`.
    """
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tools[i].name}, "parameters": {"$ref": f"#{place(i)}"}},
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for i in parameters
    ]
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": calls},
        "$defs": {f"tool{i}": {"type": "object", **schema} for i, schema in parameters.items()},
    }
    if choice.mode is ToolChoiceMode.NAMED or not choice.parallel_calls:
        schema["maxItems"] = 1
    return schema
