"""How calls are written: the pieces out of which `octet.translate.tools` puts its scanner together."""

import ast
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

FENCE = "```"
_FENCE_MARKS = ("", "json", "tool_code")
OPENER = re.compile(r"[\[{`]")
_WORD = re.compile(r"[A-Za-z_]*")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)("?)', re.DOTALL)
# What may stand before the part of a collected construct that is parsed: a fence, a list's comma or bracket.
COLLECTED = re.compile(r"\s*(?:```[a-z_]*\s*)?(?:[\[,]\s*(?=\{)|,\s*)?")
_ARGUMENT_KEYS = ("parameters", "arguments")


class Incomplete(Exception):
    """More text is needed to decide."""


class NoCall(Exception):
    """What was looked at is no call."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The start of a call, from which on it is certain (`name` is set) or to be collected up to its end.

    `end` is where the arguments start, or where collecting does; `in_list` and `fenced` say what encloses it.
    """

    end: int
    name: str | None
    in_list: bool
    fenced: bool
    python: bool = False


class Reader:
    """Reads the start of a call from text of which more may come."""

    def __init__(self, text: str, names: frozenset[str]) -> None:
        self._text = text
        self._names = names
        self.at = 0

    def opening(self) -> Opening:
        """A call's start, with what encloses it.

        Raises:
            NoCall, Incomplete
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

    def element(self, *, in_list: bool, fenced: bool) -> Opening:
        """A call as a JSON object, up to its arguments; one whose name comes last has to be collected."""
        start = self.at + self._space()
        self._expect("{")
        key = self._string(("name", *_ARGUMENT_KEYS))
        self._expect(":")
        if key in _ARGUMENT_KEYS:
            return Opening(start, None, in_list, fenced)
        name = self._string(self._names)
        if self.one_of(",}") == "}":
            return Opening(start, None, in_list, fenced)
        self._string(_ARGUMENT_KEYS)
        self._expect(":")
        if self._peek() != "{":
            return Opening(start, None, in_list, fenced)
        return Opening(self.at, name, in_list, fenced)

    def one_of(self, marks: str) -> str:
        """The next character behind white space, which has to be one of `marks`."""
        mark = self._peek()
        if mark not in marks:
            raise NoCall
        self.at += 1
        return mark

    def _fence(self) -> str:
        head = self._text[: len(FENCE)]
        if head != FENCE[: len(head)]:
            raise NoCall
        word = _WORD.match(self._text, len(FENCE))
        if len(head) < len(FENCE) or word is None or word.end() == len(self._text):
            raise Incomplete
        if word[0] not in _FENCE_MARKS:
            raise NoCall
        self.at = word.end()
        return word[0]

    def _python(self, start: int, *, in_list: bool, fenced: bool) -> Opening:
        name = _IDENTIFIER.match(self._text, self.at)
        if name is None:
            raise NoCall
        if name.end() == len(self._text) and any(known.startswith(name[0]) for known in self._names):
            raise Incomplete
        if name[0] not in self._names:
            raise NoCall
        self.at = name.end()
        if self._peek() != "(":
            raise NoCall
        return Opening(start, None, in_list, fenced, python=True)

    def _space(self) -> int:
        rest = self._text[self.at :]
        return len(rest) - len(rest.lstrip())

    def _peek(self) -> str:
        self.at += self._space()
        if self.at == len(self._text):
            raise Incomplete
        return self._text[self.at]

    def _expect(self, mark: str) -> None:
        self.one_of(mark)

    def _string(self, options: Collection[str]) -> str:
        """A JSON string that is one of `options`."""
        if self._peek() != '"':
            raise NoCall
        match = _STRING.match(self._text, self.at)
        assert match is not None
        if not match[2]:
            if any(option.startswith(match[1]) for option in options):
                raise Incomplete
            raise NoCall
        if match[1] not in options:
            raise NoCall
        self.at = match.end()
        return match[1]


class Balance:
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


def json_calls(text: str) -> list[tuple[str, str]]:
    """The call that a JSON object makes.

    Raises:
        NoCall
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NoCall from error
    name = value.pop("name", None)
    if not isinstance(name, str) or len(value) > 1:
        raise NoCall
    ((key, arguments),) = value.items() or [("parameters", None)]
    if key not in _ARGUMENT_KEYS or not isinstance(arguments, dict | None):
        raise NoCall
    return [(name, json.dumps(arguments or {}, ensure_ascii=False))]


def _refuse_constant(name: str) -> None:
    """NaN and the infinities, which Python reads in JSON and JSON does not know."""
    raise NoCall(name)


def python_calls(text: str) -> list[tuple[str, str]]:
    """The calls of a Python list of calls, or of a single one; nothing is evaluated.

    Raises:
        NoCall
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List) else [tree]
        return [
            (_python_name(call), json.dumps(_python_arguments(call), ensure_ascii=False)) for call in calls
        ]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoCall from error


def _python_name(call: ast.expr) -> str:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
        raise NoCall
    return ast.unparse(call.func)


def _python_arguments(call: ast.expr) -> dict[str, Any]:
    assert isinstance(call, ast.Call)
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise NoCall
    arguments = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    if len(arguments) < len(call.keywords):
        raise NoCall
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
    raise NoCall


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise NoCall
