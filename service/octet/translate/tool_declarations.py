"""The tools that a request offers, and the choice among them."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from octet.engine.types import Tool, ToolChoice, ToolChoiceMode
from octet.errors import InvalidRequestError
from octet.translate.schemas import SchemaReader
from octet.v1 import tool_pb2

MAX_TOOLS = 128

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

_MODES = {
    tool_pb2.ToolChoice.MODE_UNSPECIFIED: ToolChoiceMode.AUTO,
    tool_pb2.ToolChoice.MODE_AUTO: ToolChoiceMode.AUTO,
    tool_pb2.ToolChoice.MODE_NONE: ToolChoiceMode.NONE,
    tool_pb2.ToolChoice.MODE_REQUIRED: ToolChoiceMode.REQUIRED,
    tool_pb2.ToolChoice.MODE_NAMED: ToolChoiceMode.NAMED,
}


def to_tools(tools: Sequence[tool_pb2.Tool], schemas: SchemaReader) -> tuple[Tool, ...]:
    """Checks and converts ChatRequest.tools; `schemas` reads their parameters.

    Raises:
        InvalidRequestError: at the wrong field.
    """
    if len(tools) > MAX_TOOLS:
        raise InvalidRequestError(
            "tools", f"has {len(tools)} tools, more than the {MAX_TOOLS} of one request"
        )
    names: set[str] = set()
    converted = []
    for i, tool in enumerate(tools):
        field = f"tools[{i}]"
        check_tool_name(tool.name, f"{field}.name")
        if tool.name in names:
            raise InvalidRequestError(f"{field}.name", f"{tool.name!r} is the name of an earlier tool, too")
        names.add(tool.name)
        parameters = _to_parameters(tool, schemas, field)
        converted.append(
            Tool(
                tool.name,
                tool.description,
                parameters,
                as_text=bool(tool.parameters_json),
                strict=tool.strict,
            )
        )
    return tuple(converted)


def to_tool_choice(choice: tool_pb2.ToolChoice, tools: Iterable[Tool]) -> ToolChoice:
    """Checks and converts ChatRequest.tool_choice against the request's `tools`.

    Raises:
        InvalidRequestError: at the wrong field.
    """
    mode = _MODES.get(choice.mode)
    if mode is None:
        raise InvalidRequestError("tool_choice.mode", f"{int(choice.mode)} is not a mode of this API")
    names = {tool.name for tool in tools}
    _check_allowed(choice.allowed_names, mode, names)
    if mode is ToolChoiceMode.NAMED:
        if not choice.name:
            raise InvalidRequestError("tool_choice.name", "is empty; MODE_NAMED needs the name of a tool")
        if choice.name not in names:
            raise InvalidRequestError(
                "tool_choice.name", f"{choice.name[:64]!r} is not the name of one of the request's tools"
            )
    elif choice.name:
        raise InvalidRequestError(
            "tool_choice.name", "is set, but the mode is not MODE_NAMED; set the mode or leave the name out"
        )
    if mode is ToolChoiceMode.REQUIRED and not names:
        raise InvalidRequestError("tool_choice.mode", "is MODE_REQUIRED, but the request has no tools")
    parallel_calls = choice.parallel_calls if choice.HasField("parallel_calls") else True
    return ToolChoice(mode, choice.name, parallel_calls, tuple(choice.allowed_names))


def _check_allowed(allowed: Sequence[str], mode: ToolChoiceMode, names: Collection[str]) -> None:
    """Checks ToolChoice.allowed_names against the names of the request's tools."""
    field = "tool_choice.allowed_names"
    if allowed and mode not in (ToolChoiceMode.AUTO, ToolChoiceMode.REQUIRED):
        raise InvalidRequestError(
            field, f"is set, but MODE_{mode.name} leaves no choice of tools; use MODE_AUTO or MODE_REQUIRED"
        )
    seen: set[str] = set()
    for i, name in enumerate(allowed):
        if name not in names:
            raise InvalidRequestError(
                f"{field}[{i}]", f"{name[:64]!r} is not the name of one of the request's tools"
            )
        if name in seen:
            raise InvalidRequestError(f"{field}[{i}]", f"{name!r} is in the list already")
        seen.add(name)


def check_tool_name(name: str, field: str) -> None:
    """Raises InvalidRequestError at `field` when `name` cannot be a tool's."""
    if not _TOOL_NAME.fullmatch(name):
        raise InvalidRequestError(
            field, f'{name[:80]!r} is not 1 to 64 characters out of letters, digits, "_", "-" and "."'
        )


def _to_parameters(tool: tool_pb2.Tool, schemas: SchemaReader, field: str) -> dict[str, Any]:
    if tool.parameters_json:
        if tool.HasField("parameters"):
            raise InvalidRequestError(
                f"{field}.parameters_json", "is set together with parameters; set one of the two"
            )
        field = f"{field}.parameters_json"
        schema = schemas.read_text(tool.parameters_json, field)
    elif tool.HasField("parameters"):
        field = f"{field}.parameters"
        schema = schemas.read(tool.parameters, field)
    else:
        return dict(_NO_ARGUMENTS)
    if schema.get("type") != "object":
        raise InvalidRequestError(
            field, 'needs "type": "object"; leave the field out for a tool without arguments'
        )
    return schema
