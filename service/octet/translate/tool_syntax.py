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
# A bracket, a fence, or the beginning of a line behind which a name may stand.
_CANDIDATE = re.compile(r"[\[{`]|\n[ \t]*(?=[A-Za-z_])")
_INDENT = re.compile(r"[ \t]*")
_WORD = re.compile(r"[A-Za-z_]*")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.]*")
_IDENTIFIER_REST = re.compile(r"[\w.]*")
_SPACE = re.compile(r"\s*")
_LINE_SPACE = re.compile(r"[ \t\r]*")
_NOTHING = re.compile("")
_ARGUMENT_KEYS = ("parameters", "arguments")


class Incomplete(Exception):
    """More text is needed to decide.

    Attributes:
        idle: text that this matches as a whole would leave it at that, and need not be looked at again. A
            call's start has few places where any amount of it may stand, so that what waits is read a few
            times and not with each piece that comes.
    """

    def __init__(self, idle: re.Pattern[str] = _NOTHING) -> None:
        super().__init__()
        self.idle = idle


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
    """Reads the start of a call from text of which more may come.

    Attributes:
        at: how far the text has been read.
    """

    def __init__(self, text: str, names: frozenset[str], at: int = 0) -> None:
        self._text = text
        self._names = names
        self.at = at

    def opening(self) -> Opening:
        """A call's start, with what encloses it.

        Raises:
            NoCall, Incomplete
        """
        fenced = self._text.startswith("`", self.at)
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
        """Whether `mark`, of one character or more, comes next behind white space; it is skipped then."""
        self._peek()
        if not self._text.startswith(mark, self.at):
            if self._is_cut_off(mark):
                raise Incomplete
            return False
        self.at += len(mark)
        return True

    def _fence(self) -> None:
        if not self._text.startswith(FENCE, self.at):
            raise Incomplete if self._is_cut_off(FENCE) else NoCall
        word = _WORD.match(self._text, self.at + len(FENCE))
        assert word is not None
        if word.end() == len(self._text) and any(mark.startswith(word[0]) for mark in _FENCE_MARKS):
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
            if keyword.end() == len(self._text):
                raise Incomplete(_IDENTIFIER_REST)
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

    def stands_alone(self, *, fenced: bool) -> bool:
        """Whether nothing but the end of the line, or of the fenced block, follows a Python call.

        Raises:
            Incomplete
        """
        space = _LINE_SPACE.match(self._text, self.at)
        assert space is not None
        self.at = space.end()
        if self.at == len(self._text):
            raise Incomplete(_LINE_SPACE)
        if fenced and self._is_cut_off(FENCE):
            raise Incomplete
        return self._text.startswith("\n", self.at) or (fenced and self._text.startswith(FENCE, self.at))

    def _peek(self) -> str:
        space = _SPACE.match(self._text, self.at)
        assert space is not None
        self.at = space.end()
        if self.at == len(self._text):
            raise Incomplete(_SPACE)
        return self._text[self.at]

    def _expect(self, mark: str) -> None:
        self.one_of(mark)

    def _is_cut_off(self, mark: str) -> bool:
        """Whether the text ends within `mark`."""
        return len(self._text) - self.at < len(mark) and mark.startswith(self._text[self.at :])

    def _string(self, options: Collection[str]) -> str:
        """A JSON string that is one of `options`, written without escapes."""
        if self._peek() != '"':
            raise NoCall
        begin, longest = self.at + 1, max(map(len, options), default=0)
        end = self._text.find('"', begin, begin + longest + 1)
        found = self._text[begin : begin + longest + 1 if end < 0 else end]
        if end < 0 and begin + len(found) == len(self._text):
            if any(option.startswith(found) for option in options):
                raise Incomplete
        elif end >= 0 and found in options:
            self.at = end + 1
            return found
        raise NoCall


def call_start(text: str, names: frozenset[str], at: int, *, at_line_start: bool) -> int | None:
    """Where the first thing that may be a call begins: a bracket, a fence, or a tool's name on a new line.

    Args:
        text: the text.
        names: the tools' names.
        at: where to begin to look.
        at_line_start: whether that place itself is on a new line.
    """
    reader = Reader(text, names)
    if at_line_start:
        indent = _INDENT.match(text, at)
        assert indent is not None
        at = indent.end()
        if reader.names_tool(at):
            return at
    while candidate := _CANDIDATE.search(text, at):
        if not candidate[0].startswith("\n"):
            return candidate.start()
        at = candidate.end()
        if reader.names_tool(at):
            return at
    return None


class Balance:
    """Finds the bracket that closes the first one, in text that comes in pieces.

    Attributes:
        closed: whether it has been found.
    """

    def __init__(self, *, python: bool) -> None:
        self.closed = False
        self._plain = _PYTHON_MARKS if python else _JSON_MARKS
        self._python = python
        self._depth = 0
        self._quote = ""

    def advance(self, text: str, at: int) -> int:
        """Reads on from `at`; returns the place behind the closing bracket, or behind what is understood.

        What lies behind, at most two characters where nothing was closed, has to be given again with what
        follows it.
        """
        while mark := (_QUOTED[self._quote] if self._quote else self._plain).search(text, at):
            found = mark[0]
            if mark.end() == len(text) and self._may_go_on(found):
                return mark.start()
            at = mark.end()
            if found[0] == "\\":
                continue
            if found[0] in "\"'":
                # Two quotes are an empty string.
                self._quote = "" if self._quote or len(found) == 2 else found
            else:
                self._depth += 1 if found in "[({" else -1
                if self._depth == 0:
                    self.closed = True
                    return at
        # Quotes at the end may be the beginning of the three that end a string.
        ending = text[max(at, len(text) - 2) :] if len(self._quote) == 3 else ""
        return len(text) - len(ending) + len(ending.rstrip(self._quote[:1] or None))

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
    if any(_is_prefixed(text, string.start()) for string in _STRINGS.finditer(text)):
        raise NoCall
    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes such as \d, which Python knows not
            call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
            raise NoCall
        return ast.unparse(call.func), _dump(_python_arguments(call))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoCall from error


def _is_prefixed(text: str, quote: int) -> bool:
    """Whether a letter before a string's quote makes it something else than text.

    Such strings are no literals that JSON can hold, and Python 3.11 takes quadratic time to parse f-strings.
    """
    before = text[max(0, quote - 2) : quote]
    return _WORD_END.search(before) is not None and _TEXT_PREFIX.search(before) is None


_STRINGS = re.compile(r"""("{3}|'{3})(?:\\.|[^\\])*?\1|(["'])(?:\\.|(?!\2)[^\\])*\2""", re.DOTALL)
_WORD_END = re.compile(r"\w\Z")
_TEXT_PREFIX = re.compile(r"(?:\A|\W)[rRuU]\Z")


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
