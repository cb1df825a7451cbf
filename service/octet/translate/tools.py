"""Tool calls in a model's answer: the schema that forces them, and a scanner that finds them as it grows.

A call is written in one of these ways, alone or between other text:

* a JSON object ``{"name": "f", "parameters": {...}}``; ``arguments`` may stand for ``parameters``;
* a JSON list of such objects;
* a list of Python calls with keyword arguments that are literals: ``[f(a="b"), g()]``;
* one of these in a fenced block marked json, tool_code or not at all; under tool_code also ``f(a="b")``.

Only the names of tools on offer make a call. Whatever else looks like one stays text.
"""

import ast
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from octet.engine.types import Tool, ToolChoice, ToolChoiceMode


@dataclass(frozen=True, slots=True)
class TextFound:
    """Text to append to the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallFound:
    """The answer's next call has begun; `index` counts from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsFound:
    """JSON text to append to the arguments of call `index`."""

    index: int
    json: str


Found = TextFound | CallFound | ArgumentsFound


def calls_schema(tools: Sequence[Tool], choice: ToolChoice) -> dict[str, Any]:
    """The JSON Schema of an answer that consists of calls: of any tool, or exactly one of the named tool."""
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
    if named:
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


class _Incomplete(Exception):
    """More text is needed to decide."""


class _NoCall(Exception):
    """What was looked at is no call."""


class _State(Enum):
    TEXT = auto()  # outside of calls
    COLLECT = auto()  # in something that is decided on at its closing bracket
    ARGUMENTS = auto()  # in the arguments of a call that has been reported
    OBJECT_END = auto()  # behind those, before the brace that ends the call
    ELEMENT_END = auto()  # behind a call in a list
    FENCE_END = auto()  # behind the last call of a fenced block


@dataclass(frozen=True, slots=True)
class _Opening:
    """The start of a call, from which on it is certain (`name` is set) or to be collected up to its end.

    `end` is where the arguments start, or where collecting does; `in_list` and `fenced` say what encloses it.
    """

    end: int
    name: str | None
    in_list: bool
    fenced: bool
    python: bool = False


class ToolCallScanner:
    """Separates calls from text, given piece by piece; reports each part as soon as it is certain.

    What is reported adds up to the same whatever the pieces are, and nothing is taken back. The arguments of
    a JSON object that names its tool first are the model's own characters, as they come; all others are
    written anew as JSON when the call is complete. White space next to a call is left out.
    """

    def __init__(self, names: Collection[str]) -> None:
        """`names` are the tools on offer."""
        self._names = frozenset(names)
        self._buffer = ""
        self._state = _State.TEXT
        self._balance = _Balance(python=False)
        self._scanned = 0  # how much of the buffer the balance has seen
        self._in_list = False
        self._fenced = False
        self._python = False
        self._calls = 0
        self._space = ""  # white space that is dropped if a call follows
        self._behind_call = False
        self._found: list[Found] = []

    def feed(self, text: str) -> list[Found]:
        """Takes the next piece of the answer; returns what has become certain."""
        self._buffer += text
        self._advance()
        return self._take()

    def finish(self) -> list[Found]:
        """The answer has ended; returns the rest. What has not become a call by now is text."""
        rest, self._buffer = self._buffer, ""
        if self._state is _State.ARGUMENTS:
            self._arguments(rest)
        elif rest.strip() or self._state is _State.TEXT:
            self._text(rest)
        if self._space:
            self._found.append(TextFound(self._space))
            self._space = ""
        return self._take()

    def _take(self) -> list[Found]:
        found, self._found = self._found, []
        return found

    def _advance(self) -> None:
        steps = {
            _State.TEXT: self._step_text,
            _State.COLLECT: self._step_collect,
            _State.ARGUMENTS: self._step_arguments,
            _State.OBJECT_END: self._step_object_end,
            _State.ELEMENT_END: self._step_element_end,
            _State.FENCE_END: self._step_fence_end,
        }
        try:
            while self._buffer:
                steps[self._state]()
        except _Incomplete:
            pass

    # Each step takes something off the buffer or changes the state, or raises _Incomplete.

    def _step_text(self) -> None:
        start = _OPENER.search(self._buffer)
        if start is None:
            self._text(self._cut(len(self._buffer)))
            return
        self._text(self._cut(start.start()))
        try:
            opening = _Reader(self._buffer, self._names).opening()
        except _NoCall:
            self._text(self._cut(1))
            return
        self._enter(opening)

    def _enter(self, opening: _Opening) -> None:
        self._in_list, self._fenced, self._python = opening.in_list, opening.fenced, opening.python
        self._balance = _Balance(python=opening.python)
        if opening.name is None:
            self._state, self._scanned = _State.COLLECT, opening.end
        else:
            self._call(opening.name)
            self._cut(opening.end)
            self._state, self._scanned = _State.ARGUMENTS, 0

    def _step_collect(self) -> None:
        end = self._balance.advance(self._buffer, self._scanned)
        if end is None:
            self._scanned = len(self._buffer)
            raise _Incomplete
        begin = _COLLECTED.match(self._buffer)
        collected = self._cut(end)
        try:
            calls = (_python_calls if self._python else _json_calls)(collected[begin.end() if begin else 0 :])
            if any(name not in self._names for name, _ in calls):
                raise _NoCall
        except _NoCall:
            self._text(collected)
            self._state = _State.TEXT
            return
        for name, arguments in calls:
            self._call(name)
            self._arguments(arguments)
        # A Python list is collected as a whole, a JSON object alone or as an element.
        self._end_call(in_list=self._in_list and not self._python)

    def _step_arguments(self) -> None:
        end = self._balance.advance(self._buffer, 0)
        self._arguments(self._cut(len(self._buffer) if end is None else end))
        if end is not None:
            self._state = _State.OBJECT_END

    def _step_object_end(self) -> None:
        if self._skip("}"):
            self._end_call(in_list=self._in_list)
        else:
            self._state = _State.TEXT

    def _end_call(self, *, in_list: bool) -> None:
        if in_list:
            self._state = _State.ELEMENT_END
        else:
            self._state = _State.FENCE_END if self._fenced else _State.TEXT

    def _step_element_end(self) -> None:
        reader = _Reader(self._buffer, self._names)
        try:
            mark = reader.one_of(",]")
            if mark == ",":
                opening = reader.element(in_list=True, fenced=self._fenced)
        except _NoCall:
            self._state = _State.TEXT
            return
        if mark == "]":
            self._cut(reader.at)
            self._end_call(in_list=False)
        else:
            self._enter(opening)

    def _step_fence_end(self) -> None:
        self._skip(_FENCE)
        self._state = _State.TEXT

    def _skip(self, mark: str) -> bool:
        """Takes `mark` and the white space before it off the buffer, if they are there."""
        rest = self._buffer.lstrip()
        if len(rest) < len(mark) and mark.startswith(rest):
            raise _Incomplete
        if not rest.startswith(mark):
            return False
        self._buffer = rest[len(mark) :]
        return True

    def _cut(self, length: int) -> str:
        head, self._buffer = self._buffer[:length], self._buffer[length:]
        return head

    def _text(self, text: str) -> None:
        text = self._space + text
        if self._behind_call:
            text = text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            self._behind_call = False
            last = self._found[-1] if self._found else None
            if isinstance(last, TextFound):
                self._found[-1] = TextFound(last.text + kept)
            else:
                self._found.append(TextFound(kept))

    def _call(self, name: str) -> None:
        self._space, self._behind_call = "", True
        self._found.append(CallFound(self._calls, name))
        self._calls += 1

    def _arguments(self, text: str) -> None:
        if text:
            self._found.append(ArgumentsFound(self._calls - 1, text))


_FENCE = "```"
_FENCE_MARKS = ("", "json", "tool_code")
_OPENER = re.compile(r"[\[{`]")
_WORD = re.compile(r"[A-Za-z_]*")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)("?)', re.DOTALL)
# What may stand before the part of a collected construct that is parsed: a fence, a list's comma or bracket.
_COLLECTED = re.compile(r"\s*(?:```[a-z_]*\s*)?(?:[\[,]\s*(?=\{)|,\s*)?")


class _Reader:
    """Reads the start of a call from text of which more may come."""

    def __init__(self, text: str, names: frozenset[str]) -> None:
        self._text = text
        self._names = names
        self.at = 0

    def opening(self) -> _Opening:
        """A call's start, with what encloses it.

        Raises:
            _NoCall, _Incomplete
        """
        mark = self._fence() if self._text.startswith("`") else None
        fenced = mark is not None
        if mark == "tool_code" and self._peek() not in "[{":
            return self._python(self.at, in_list=False, fenced=True)
        if self._peek() == "[":
            start = self.at
            self.at += 1
            if self._peek() != "{":
                return self._python(start, in_list=True, fenced=fenced)
            return self.element(in_list=True, fenced=fenced)
        return self.element(in_list=False, fenced=fenced)

    def element(self, *, in_list: bool, fenced: bool) -> _Opening:
        """A call as a JSON object, up to its arguments; one whose name comes last has to be collected."""
        start = self.at + self._space()
        self._expect("{")
        key = self._string(("name", *_ARGUMENT_KEYS))
        self._expect(":")
        if key in _ARGUMENT_KEYS:
            return _Opening(start, None, in_list, fenced)
        name = self._string(self._names)
        if self.one_of(",}") == "}":
            return _Opening(start, None, in_list, fenced)
        self._string(_ARGUMENT_KEYS)
        self._expect(":")
        if self._peek() != "{":
            return _Opening(start, None, in_list, fenced)
        return _Opening(self.at, name, in_list, fenced)

    def one_of(self, marks: str) -> str:
        """The next character behind white space, which has to be one of `marks`."""
        mark = self._peek()
        if mark not in marks:
            raise _NoCall
        self.at += 1
        return mark

    def _fence(self) -> str:
        head = self._text[: len(_FENCE)]
        if head != _FENCE[: len(head)]:
            raise _NoCall
        word = _WORD.match(self._text, len(_FENCE))
        if len(head) < len(_FENCE) or word is None or word.end() == len(self._text):
            raise _Incomplete
        if word[0] not in _FENCE_MARKS:
            raise _NoCall
        self.at = word.end()
        return word[0]

    def _python(self, start: int, *, in_list: bool, fenced: bool) -> _Opening:
        name = _IDENTIFIER.match(self._text, self.at)
        if name is None:
            raise _NoCall
        if name.end() == len(self._text) and any(known.startswith(name[0]) for known in self._names):
            raise _Incomplete
        if name[0] not in self._names:
            raise _NoCall
        self.at = name.end()
        if self._peek() != "(":
            raise _NoCall
        return _Opening(start, None, in_list, fenced, python=True)

    def _space(self) -> int:
        rest = self._text[self.at :]
        return len(rest) - len(rest.lstrip())

    def _peek(self) -> str:
        self.at += self._space()
        if self.at == len(self._text):
            raise _Incomplete
        return self._text[self.at]

    def _expect(self, mark: str) -> None:
        self.one_of(mark)

    def _string(self, options: Collection[str]) -> str:
        """A JSON string that is one of `options`."""
        if self._peek() != '"':
            raise _NoCall
        match = _STRING.match(self._text, self.at)
        assert match is not None
        if not match[2]:
            if any(option.startswith(match[1]) for option in options):
                raise _Incomplete
            raise _NoCall
        if match[1] not in options:
            raise _NoCall
        self.at = match.end()
        return match[1]


_ARGUMENT_KEYS = ("parameters", "arguments")


class _Balance:
    """Finds the bracket that closes the first one, in text that comes in pieces."""

    def __init__(self, *, python: bool) -> None:
        self._plain = re.compile(r"[\[\](){}\"']" if python else r"[\[\]{}\"]")
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def advance(self, text: str, at: int) -> int | None:
        """Where the closing bracket ends, or None; looks at text[at:] and remembers where it stands."""
        if self._escaped and at < len(text):
            at, self._escaped = at + 1, False
        while at < len(text):
            pattern = _QUOTED[self._quote] if self._quote else self._plain
            mark = pattern.search(text, at)
            if mark is None:
                return None
            at = mark.end()
            if mark[0] == "\\":
                self._escaped = at == len(text)
                at += 1
            elif mark[0] in "\"'":
                self._quote = "" if self._quote else mark[0]
            else:
                self._depth += 1 if mark[0] in "[({" else -1
                if self._depth == 0:
                    return at
        return None


_QUOTED = {'"': re.compile(r'[\\"]'), "'": re.compile(r"[\\']")}


def _json_calls(text: str) -> list[tuple[str, str]]:
    """The call that a JSON object makes.

    Raises:
        _NoCall
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _NoCall from error
    name = value.pop("name", None)
    if not isinstance(name, str) or len(value) > 1:
        raise _NoCall
    ((key, arguments),) = value.items() or [("parameters", None)]
    if key not in _ARGUMENT_KEYS or not isinstance(arguments, dict | None):
        raise _NoCall
    return [(name, json.dumps(arguments or {}, ensure_ascii=False))]


def _refuse_constant(name: str) -> None:
    """NaN and the infinities, which Python reads in JSON and JSON does not know."""
    raise _NoCall(name)


def _python_calls(text: str) -> list[tuple[str, str]]:
    """The calls of a Python list of calls, or of a single one; nothing is evaluated.

    Raises:
        _NoCall
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else [tree]
        return [
            (_python_name(call), json.dumps(_python_arguments(call), ensure_ascii=False)) for call in calls
        ]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _NoCall from error


def _python_name(call: ast.expr) -> str:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
        raise _NoCall
    return ast.unparse(call.func)


def _python_arguments(call: ast.expr) -> dict[str, Any]:
    assert isinstance(call, ast.Call)
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise _NoCall
    arguments = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    if len(arguments) < len(call.keywords):
        raise _NoCall
    return arguments


def _literal(node: ast.expr) -> Any:
    """A literal that JSON can hold; JSON's own true, false and null count, models mix them up."""
    match node:
        case ast.Constant(value=None | bool() | int() | str() as value):
            return value
        case ast.Constant(value=float() as value) if value - value == 0:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _literal(value) for key, value in zip(keys, values, strict=True)}
        case ast.Name(id="true" | "false" | "null" as name):
            return {"true": True, "false": False, "null": None}[name]
    raise _NoCall


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise _NoCall
