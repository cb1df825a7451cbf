"""What a request holds its answer to: an output format, or the tool calls that it demands."""

import dataclasses
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from octet.engine.types import GenerationRequest, OutputFormat, OutputKind, ToolChoice, ToolChoiceMode
from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.checker import BEGUN, Verdict
from octet.engine.vllm.constraints.reasons import explain, is_too_costly, regex_problem
from octet.engine.vllm.constraints.schema import (
    LISTS,
    MAPS,
    SINGLE,
    NotEnforceableError,
    escaped,
    to_enforceable,
)
from octet.errors import InvalidRequestError
from octet.translate.tool_schema import calls_schema, offered, place

Check = Callable[[str], Awaitable[Verdict]]
"""Says what is wrong with a constraint; see `octet.engine.vllm.constraints.checker.Checker.check`."""

# How models write calls, and are shown their earlier ones.
_CALL_SEPARATORS = (", ", ": ")
_COMPACT = (",", ":")

# Where in the schema of calls one tool's parameters are.
_TOOL = re.compile(r"/\$defs/tool(\d+)")

# How many parts of a schema are compiled alone, to find out which one cannot be.
_MAX_TRIED_PARTS = 48


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer is held to.

    Attributes:
        field: the field of the request that it comes from.
        grammar: the constraint, as `octet.engine.vllm.constraints.grammars` gives it.
        tools: the fields of the schemas of the tools that may be called, by the tools' places.
        unique: the schemas whose uniqueItems are looked at in the whole answer: by a tool's name that of its
            arguments, by None that of the text.
        begun: the field of what is written of the text already; empty where that is nothing.
    """

    field: str
    grammar: str
    tools: Mapping[int, str] = dataclasses.field(default_factory=dict)
    unique: Mapping[str | None, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    begun: str = ""

    def going_on(self, text: str, field: str) -> "Constraint":
        """The same constraint for an answer that goes on with `text`, a part of the request's `field`."""
        return dataclasses.replace(self, grammar=grammars.begun_with(self.grammar, text), begun=field)


def forces_calls(choice: ToolChoice) -> bool:
    """Whether the answer has to consist of tool calls."""
    return choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED)


def is_constrained(request: GenerationRequest) -> bool:
    """Whether the answer is held to any form."""
    return request.output_format is not None or forces_calls(request.tool_choice)


def to_constraint(request: GenerationRequest) -> Constraint:
    """The constraint of a request that has one; takes time that grows with its schemas.

    Raises:
        InvalidRequestError: at a field with a part that cannot be enforced.
    """
    if forces_calls(request.tool_choice):
        return _calls(request)
    assert request.output_format is not None
    return _format(request.output_format)


async def verified(constraint: Constraint, check: Check) -> Constraint:
    """The constraint, ready for the engine core.

    Raises:
        InvalidRequestError: at its field, when it cannot be compiled.
    """
    problem, grammar = await check(constraint.grammar)
    if not problem:
        return dataclasses.replace(constraint, grammar=grammar)
    if problem == BEGUN:
        raise InvalidRequestError(
            constraint.begun,
            f"begins nothing that {constraint.field} permits, to which the whole answer is held; "
            "leave it out, or begin it in that form",
        )
    where, problem = await _part_at_fault(constraint.grammar, problem, check)
    at = constraint.field
    if inside_tool := _TOOL.match(where):
        at, where = constraint.tools[int(inside_tool[1])], where[inside_tool.end() :]
    raise InvalidRequestError(at, explain(problem) + (f" (at {where})" if where else ""))


def _format(output_format: OutputFormat) -> Constraint:
    kind, spec = output_format.kind, output_format.spec
    name = "json_schema_text" if output_format.as_text else kind.value
    at = f"output_format.{name}"
    if kind is OutputKind.JSON_OBJECT:
        spec = {"type": "object"}
    match kind:
        case OutputKind.JSON_OBJECT | OutputKind.JSON_SCHEMA:
            assert isinstance(spec, Mapping)
            try:
                enforceable = to_enforceable(spec)
            except NotEnforceableError as error:
                raise InvalidRequestError(at, str(error)) from error
            grammar = grammars.of_schema(
                enforceable.schema, separators=_COMPACT, white_space=output_format.white_space
            )
            return Constraint(at, grammar, unique={None: spec} if enforceable.unique else {})
        case OutputKind.REGEX:
            assert isinstance(spec, str)
            if problem := regex_problem(spec):
                raise InvalidRequestError(at, problem)
            return Constraint(at, grammars.of_regex(spec))
        case OutputKind.GRAMMAR:
            assert isinstance(spec, str)
            return Constraint(at, grammars.of_ebnf(spec))
        case OutputKind.CHOICE:
            assert isinstance(spec, tuple)
            return Constraint(at, grammars.of_choice(spec))


def _calls(request: GenerationRequest) -> Constraint:
    parameters: dict[int, dict[str, Any]] = {}
    unique: dict[str | None, Mapping[str, Any]] = {}
    fields: dict[int, str] = {}
    for i in offered(request.tools, request.tool_choice):
        tool = request.tools[i]
        fields[i] = f"tools[{i}].parameters_json" if tool.as_text else f"tools[{i}].parameters"
        try:
            enforceable = to_enforceable(_closed(tool.parameters), place(i))
        except NotEnforceableError as error:
            raise InvalidRequestError(fields[i], str(error)) from error
        parameters[i] = enforceable.schema
        if enforceable.unique:
            unique[tool.name] = tool.parameters
    schema = calls_schema(request.tools, request.tool_choice, parameters)
    grammar = grammars.of_schema(schema, separators=_CALL_SEPARATORS, white_space=False)
    return Constraint("tools", grammar, fields, unique)


def _closed(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool's schema without arguments that it does not list, unless it says that there are any."""
    open_keywords = {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
    listed, required = parameters.get("properties", {}), parameters.get("required", ())
    if not listed or open_keywords & parameters.keys() or not listed.keys() >= set(required):
        return parameters
    return {**parameters, "additionalProperties": False}


async def _part_at_fault(grammar: str, problem: str, check: Check) -> tuple[str, str]:
    """The pointer to the smallest part of a schema that cannot be compiled alone, and what is wrong."""
    (form,) = json.loads(grammar).get("grammars", [{}])
    if form.get("json_schema") is None or is_too_costly(problem):
        return "", problem
    part: Any = form["json_schema"]
    options = {"x-guidance": part["x-guidance"]}
    whole = to_enforceable(part, "/$defs/whole").schema
    at, tried, found = "", 0, True
    while found:
        found = False
        for step, inner in _parts(part):
            tried += 1
            if tried > _MAX_TRIED_PARTS:
                return at, problem
            alone = {
                **options,
                "$ref": f"#/$defs/whole{quote(at + step, safe='/$')}",
                "$defs": {"whole": whole},
            }
            wrong, _ = await check(json.dumps({"grammars": [{"json_schema": alone}]}))
            if wrong and not is_too_costly(wrong):
                part, at, problem, found = inner, at + step, wrong, True
                break
    return at, problem


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas right inside of a schema, with the pointers to them; first those that others refer to."""
    for keyword, value in sorted(schema.items(), key=lambda item: item[0] not in ("$defs", "definitions")):
        inner: Mapping[str, Any] = {}
        if keyword in LISTS:
            inner = {str(i): item for i, item in enumerate(value)}
        elif keyword in MAPS:
            inner = value
        elif keyword in SINGLE and isinstance(value, Mapping):
            yield f"/{keyword}", value
        for name, item in inner.items():
            if isinstance(item, Mapping):
                yield f"/{keyword}/{escaped(name)}", item
