"""The JSON Schema of answers that consist of tool calls; decoding is held to it when calls are demanded."""

from collections.abc import Mapping, Sequence
from typing import Any

from octet.engine.types import Tool, ToolChoice, ToolChoiceMode


def calls_schema(tools: Sequence[Tool], choice: ToolChoice) -> dict[str, Any]:
    """The JSON Schema of an answer that consists of calls: any, or exactly one where that is demanded."""
    named = choice.mode is ToolChoiceMode.NAMED
    offered = [tool for tool in tools if not named or tool.name == choice.name]
    definitions = {f"tool{i}": _parameters(tool, f"#/$defs/tool{i}") for i, tool in enumerate(offered)}
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                "parameters": {"$ref": f"#/$defs/{definition}"},
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for tool, definition in zip(offered, definitions, strict=True)
    ]
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": calls},
        "$defs": definitions,
    }
    if named or not choice.parallel_calls:
        schema["maxItems"] = 1
    return schema


def _parameters(tool: Tool, place: str) -> dict[str, Any]:
    """A tool's schema as it stands at `place` in another one: references into itself start there."""
    schema: dict[str, Any] = {"type": "object", **_moved(tool.parameters, place)}
    return schema


def _moved(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {
            key: place + item[1:]
            if key == "$ref" and isinstance(item, str) and item.startswith("#")
            else _moved(item, place)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_moved(item, place) for item in value]
    return value
