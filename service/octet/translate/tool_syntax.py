"""How calls are written: the pieces out of which `octet.translate.tools` puts its scanner together."""

import ast
import json
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

FENCE = "```"
_FENCE_MARKS = ("", "json", "python", "tool_code")
_OPENER = re.compile(r"[\[{`]")
_LINE_START = re.compile(r"^[ \t]*", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]*")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)("?)', re.DOTALL)
_ARGUMENT_KEYS = ("parameters", "arguments")


class Incomplete(Exception):
    """More text is needed to decide."""


class NoCall(Exception):
    """What was looked at is no call."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The start of a call, from which on it is certain (`name` is set) or to be collected up to its end.

    `end` is where the arguments start, or where the call to be collected does; `in_list` and `fenced` say
    what encloses it.
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
        fenced = self._text.startswith("`")
        if fenced:
            self._fence()
        return self.statement(fenced=fenced)

    def statement(self, *, fenced: bool) -> Opening:
        """A call's start, or that of a list of calls."""
        in_list = self._peek() == "["
        self.at += in_list
        return self.element(in_list=in_list, fenced=fenced)

    def element(self, *, in_list: bool, fenced: bool) -> Opening:
        """A call's start: a JSON object up to its arguments, or what has to be collected as a whole."""
        if self._peek() == "{":
            return self._json(in_list=in_list, fenced=fenced)
        return self._python(in_list=in_list, fenced=fenced)

    def _json(self, *, in_list: bool, fenced: bool) -> Opening:
        """An object's name comes before its arguments, or it has to be collected."""
        start = self.at
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

    def skips(self, mark: str) -> bool:
        """Whether `mark` is the next character behind white space, which is skipped then."""
        if self._peek() != mark:
            return False
        self.at += 1
        return True

    def _fence(self) -> None:
        head = self._text[: len(FENCE)]
        if head != FENCE[: len(head)]:
            raise NoCall
        word = _WORD.match(self._text, len(FENCE))
        if len(head) < len(FENCE) or word is None or word.end() == len(self._text):
            raise Incomplete
        if word[0] not in _FENCE_MARKS:
            raise NoCall
        self.at = word.end()

    def _python(self, *, in_list: bool, fenced: bool) -> Opening:
        """A name on offer, its bracket, and behind that nothing or a keyword: prose is told apart early."""
        start = self.at
        if not self.names_tool(start):
            raise NoCall
        name = _IDENTIFIER.match(self._text, start)
        assert name is not None
        if name.end() == len(self._text):
            raise Incomplete
        self.at = name.end()
        self._expect("(")
        if self._peek() != ")":
            keyword = _IDENTIFIER.match(self._text, self.at)
            if keyword is None:
                raise NoCall
            self.at = keyword.end()
            self._expect("=")
        return Opening(start, None, in_list, fenced, python=True)

    def names_tool(self, at: int) -> bool:
        """Whether a tool's name stands there, or, at the end of the text, what may become one."""
        name = _IDENTIFIER.match(self._text, at)
        if name is None:
            return False
        if name.end() == len(self._text):
            return any(known.startswith(name[0]) for known in self._names)
        return name[0] in self._names

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


def call_start(text: str, names: frozenset[str], *, at_line_start: bool) -> int | None:
    """Where the first thing that may be a call begins: a bracket, a fence, or a tool's name on a new line.

    `at_line_start` says whether the text itself begins on a new line.
    """
    opener = _OPENER.search(text)
    end = opener.start() if opener else len(text)
    reader = Reader(text, names)
    for line in _LINE_START.finditer(text, 0, end):
        if (line.start() or at_line_start) and reader.names_tool(line.end()):
            return line.end()
    return opener.start() if opener else None


def stands_alone(follows: str, *, fenced: bool) -> bool:
    """Whether nothing but the end of the line, or of the fenced block, follows a Python call.

    Raises:
        Incomplete
    """
    rest = follows.lstrip(" \t\r")
    if not rest or (fenced and rest != FENCE and FENCE.startswith(rest)):
        raise Incomplete
    return rest.startswith("\n") or (fenced and rest.startswith(FENCE))


class Balance:
    """Finds the bracket that closes the first one, in text that comes in pieces.

    Attributes:
        at: how much of the text has been looked at; what lies behind cannot be understood without more.
    """

    def __init__(self, *, python: bool, at: int = 0) -> None:
        self.at = at
        self._plain = _PYTHON_MARKS if python else _JSON_MARKS
        self._python = python
        self._depth = 0
        self._quote = ""

    def advance(self, text: str) -> int | None:
        """Where the closing bracket ends, or None; `text` is all of it, from its beginning."""
        while mark := (_QUOTED[self._quote] if self._quote else self._plain).search(text, self.at):
            found = mark[0]
            if mark.end() == len(text) and self._may_go_on(found):
                self.at = mark.start()
                return None
            self.at = mark.end()
            if found[0] == "\\":
                continue
            if found[0] in "\"'":
                # Two quotes are an empty string.
                self._quote = "" if self._quote or len(found) == 2 else found
            else:
                self._depth += 1 if found in "[({" else -1
                if self._depth == 0:
                    return self.at
        # Quotes at the end may be the beginning of the three that end a string.
        ending = text[self.at :] if len(self._quote) == 3 else ""
        self.at = len(text) - len(ending) + len(ending.rstrip(self._quote[:1] or None))
        return None

    def _may_go_on(self, mark: str) -> bool:
        """Whether a mark at the end of the text may be the beginning of a longer one."""
        if self._quote:
            return mark == "\\"
        return self._python and mark in ('"', '""', "'", "''")


_JSON_MARKS = re.compile(r'[\[\]{}"]')
_PYTHON_MARKS = re.compile(r"""[\[\](){}]|"{1,3}|'{1,3}""")
# What ends a string, and what keeps the character behind it from doing so.
_QUOTED = {quote: re.compile(rf"\\.?|{quote}", re.DOTALL) for quote in ('"', "'", '"""', "'''")}


def json_call(text: str) -> tuple[str, str]:
    """The name and the arguments, as JSON text, of the call that a JSON object makes.

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
    return name, _dump(arguments or {})


def _refuse_constant(name: str) -> None:
    """NaN and the infinities, which Python reads in JSON and JSON does not know."""
    raise NoCall(name)


def python_call(text: str) -> tuple[str, str]:
    """The name and the arguments, as JSON text, of a Python call; nothing is evaluated.

    Raises:
        NoCall
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes such as \d, which Python knows not
            call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
            raise NoCall
        return ast.unparse(call.func), _dump(_python_arguments(call))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoCall from error


def _dump(arguments: dict[str, Any]) -> str:
    """JSON text, with escapes only where half a character would be no text."""
    text = json.dumps(arguments, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(arguments)
    return text


def _python_arguments(call: ast.Call) -> dict[str, Any]:
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
