"""What a request holds its answer to: an output format, calls, either, or strict tools' schemas."""

import dataclasses
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from octet.engine.types import GenerationRequest, OutputFormat, OutputKind, Tool, ToolChoice, ToolChoiceMode
from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.checker import BEGUN, GRAMMAR, Verdict
from octet.engine.vllm.constraints.reasons import explain, is_too_costly, regex_problem
from octet.engine.vllm.constraints.schema import (
    LISTS,
    MAPS,
    SINGLE,
    Enforceable,
    NotEnforceableError,
    escaped,
    to_enforceable,
)
from octet.engine.vllm.constraints.strict import of_strict_calls
from octet.errors import InvalidRequestError
from octet.translate.calls_or_text import CALLS_BEGIN
from octet.translate.strict_calls import strict_functions, strict_spellings, strict_tools
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
        parts: of a grammar that is put together, constraints that have to hold alone.
        instead: what the answer may be held to as well, in place of this.
        begun: the field of what is written of the text already; empty where that is nothing.
    """

    field: str
    grammar: str
    tools: Mapping[int, str] = dataclasses.field(default_factory=dict)
    unique: Mapping[str | None, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    parts: "tuple[Constraint, ...]" = ()
    instead: "Constraint | None" = None
    begun: str = ""

    @property
    def grammars(self) -> tuple[str, ...]:
        """The constraints of which the answer has to satisfy any."""
        return (self.grammar, *(self.instead.grammars if self.instead else ()))

    def going_on(self, text: str, field: str) -> "Constraint":
        """The same constraint for an answer that goes on with `text`, a part of the request's `field`."""
        instead = self.instead.going_on(text, field) if self.instead else None
        grammar = grammars.begun_with(self.grammar, text)
        return dataclasses.replace(self, grammar=grammar, begun=field, instead=instead)


def forces_calls(choice: ToolChoice) -> bool:
    """Whether the answer has to consist of tool calls."""
    return choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED)


def is_calls_or_text(request: GenerationRequest) -> bool:
    """Whether the answer has to consist of tool calls unless it has the output format."""
    return (
        request.output_format is not None
        and request.tool_choice.mode is ToolChoiceMode.AUTO
        and bool(request.tools)
    )


def is_constrained(request: GenerationRequest) -> bool:
    """Whether the answer is held to any form."""
    return (
        request.output_format is not None or forces_calls(request.tool_choice) or bool(strict_tools(request))
    )


def to_constraint(request: GenerationRequest) -> Constraint:
    """The constraint of a request that has one; takes time that grows with its schemas.

    Raises:
        InvalidRequestError: at a field with a part that cannot be enforced.
    """
    if forces_calls(request.tool_choice):
        return _calls(request)
    if request.output_format is None:
        return _strict(request)
    if not is_calls_or_text(request):
        return _format(request.output_format)
    text, calls = _format_apart(request.output_format), _calls(request)
    return dataclasses.replace(text, unique={**text.unique, **calls.unique}, instead=calls)


async def verified(constraint: Constraint, check: Check) -> Constraint:
    """The constraint, ready for the engine core; without a way that what is written already has left.

    Raises:
        InvalidRequestError: at its field, when it cannot be compiled; at what is written, when that has left
            every way.
    """
    first = await _compiled(constraint, check)
    other = await _compiled(constraint.instead, check) if constraint.instead else None
    if first is None:
        first, other = other, None
    if first is None:
        permitting = " or ".join(way.field for way in (constraint, constraint.instead) if way)
        raise InvalidRequestError(
            constraint.begun,
            f"begins nothing that {permitting} permits, to which the whole answer is held; "
            "leave it out, or begin it in that form",
        )
    return dataclasses.replace(first, unique=constraint.unique, instead=other)


async def _compiled(constraint: Constraint, check: Check) -> Constraint | None:
    """One way of a constraint, compiled; None where what is written already has left it.

    Raises:
        InvalidRequestError: at its field, when it cannot be compiled.
    """
    for part in constraint.parts:
        await verified(part, check)
    problem, grammar = await check(constraint.grammar)
    if not problem:
        return dataclasses.replace(constraint, grammar=grammar)
    if problem == BEGUN:
        return None
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


def _format_apart(output_format: OutputFormat) -> Constraint:
    """The constraint of a format whose texts do not begin as calls do."""
    kind, spec = output_format.kind, output_format.spec
    if kind is OutputKind.CHOICE:
        assert isinstance(spec, tuple)
        for i, value in enumerate(spec):
            if value.startswith(CALLS_BEGIN):
                raise InvalidRequestError(
                    f"output_format.choice.values[{i}]",
                    f"begins with {CALLS_BEGIN} as calls of tools do, and could not be told from them; leave "
                    "it out, or the tools",
                )
    constraint = _format(output_format)
    if kind is OutputKind.REGEX:
        assert isinstance(spec, str)
        return dataclasses.replace(constraint, grammar=grammars.of_regex(spec, not_beginning=CALLS_BEGIN))
    if kind is OutputKind.GRAMMAR or output_format.white_space:
        return dataclasses.replace(constraint, grammar=grammars.apart(constraint.grammar, CALLS_BEGIN))
    # Compact JSON has no blank there.
    return constraint


def _strict(request: GenerationRequest) -> Constraint:
    """The constraint of an answer that may call strict tools."""
    called = [request.tools[i].name for i in offered(request.tools, request.tool_choice)]
    schemas: dict[str, Mapping[str, Any]] = {}
    unique: dict[str | None, Mapping[str, Any]] = {}
    parts: list[Constraint] = []
    for i in strict_tools(request):
        tool, field = request.tools[i], _parameters_field(request, i)
        enforceable = _enforceable(tool, field)
        schemas[tool.name] = {"type": "object", **enforceable.schema}
        if enforceable.unique:
            unique[tool.name] = tool.parameters
        alone = grammars.of_schema(schemas[tool.name], separators=_CALL_SEPARATORS, white_space=False)
        parts.append(Constraint(field, alone))
    functions = strict_functions(request)
    grammar = of_strict_calls(strict_spellings(called, schemas), schemas, functions, _CALL_SEPARATORS)
    return Constraint("tools", grammar, unique=unique, parts=tuple(parts))


def _calls(request: GenerationRequest) -> Constraint:
    parameters: dict[int, dict[str, Any]] = {}
    unique: dict[str | None, Mapping[str, Any]] = {}
    fields: dict[int, str] = {}
    for i in offered(request.tools, request.tool_choice):
        tool, fields[i] = request.tools[i], _parameters_field(request, i)
        enforceable = _enforceable(tool, fields[i], place(i))
        parameters[i] = enforceable.schema
        if enforceable.unique:
            unique[tool.name] = tool.parameters
    schema = calls_schema(request.tools, request.tool_choice, parameters)
    grammar = grammars.of_schema(schema, separators=_CALL_SEPARATORS, white_space=False)
    return Constraint("tools", grammar, fields, unique)


def _parameters_field(request: GenerationRequest, i: int) -> str:
    return f"tools[{i}].parameters_json" if request.tools[i].as_text else f"tools[{i}].parameters"


def _enforceable(tool: Tool, field: str, at: str = "") -> Enforceable:
    """The schema of a tool's arguments as decoding can be held to it; `at` is its place in another one."""
    try:
        return to_enforceable(_closed(tool.parameters), at)
    except NotEnforceableError as error:
        raise InvalidRequestError(field, str(error)) from error


def _closed(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool's schema without arguments that it does not list, unless it says that there are any."""
    open_keywords = {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
    listed, required = parameters.get("properties", {}), parameters.get("required", ())
    if not listed or open_keywords & parameters.keys() or not listed.keys() >= set(required):
        return parameters
    return {**parameters, "additionalProperties": False}


async def _part_at_fault(grammar: str, problem: str, check: Check) -> tuple[str, str]:
    """The pointer to the smallest part of a schema that cannot be compiled alone, and what is wrong."""
    form = json.loads(grammar).get("grammars", [{}])[0]
    if form.get("json_schema") is None or is_too_costly(problem) or problem.startswith(GRAMMAR):
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
