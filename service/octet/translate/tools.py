"""Tool calls in a model's answer, found as it grows.

A call is written in one of these ways, alone or between other text:

* a JSON object ``{"name": "f", "parameters": {...}}``; ``arguments`` may stand for ``parameters``;
* a JSON list of such objects;
* a list of Python calls with keyword arguments that are literals: ``[f(a="b"), g()]``;
* one of these in a fenced block marked json, tool_code or not at all; under tool_code also ``f(a="b")``.

Only the names of tools on offer make a call. Whatever else looks like one stays text.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from octet.translate.tool_syntax import (
    COLLECTED,
    FENCE,
    OPENER,
    Balance,
    Incomplete,
    NoCall,
    Opening,
    Reader,
    json_calls,
    python_calls,
)


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


class _State(Enum):
    TEXT = auto()  # outside of calls
    COLLECT = auto()  # in something that is decided on at its closing bracket
    ARGUMENTS = auto()  # in the arguments of a call that has been reported
    OBJECT_END = auto()  # behind those, before the brace that ends the call
    ELEMENT_END = auto()  # behind a call in a list
    FENCE_END = auto()  # behind the last call of a fenced block


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
        self._balance = Balance(python=False)
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
        except Incomplete:
            pass

    # Each step takes something off the buffer or changes the state, or raises Incomplete.

    def _step_text(self) -> None:
        start = OPENER.search(self._buffer)
        if start is None:
            self._text(self._cut(len(self._buffer)))
            return
        self._text(self._cut(start.start()))
        try:
            opening = Reader(self._buffer, self._names).opening()
        except NoCall:
            self._text(self._cut(1))
            return
        self._enter(opening)

    def _enter(self, opening: Opening) -> None:
        self._in_list, self._fenced, self._python = opening.in_list, opening.fenced, opening.python
        self._balance = Balance(python=opening.python)
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
            raise Incomplete
        begin = COLLECTED.match(self._buffer)
        collected = self._cut(end)
        try:
            calls = (python_calls if self._python else json_calls)(collected[begin.end() if begin else 0 :])
            if any(name not in self._names for name, _ in calls):
                raise NoCall
        except NoCall:
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
        reader = Reader(self._buffer, self._names)
        try:
            mark = reader.one_of(",]")
            if mark == ",":
                opening = reader.element(in_list=True, fenced=self._fenced)
        except NoCall:
            self._state = _State.TEXT
            return
        if mark == "]":
            self._cut(reader.at)
            self._end_call(in_list=False)
        else:
            self._enter(opening)

    def _step_fence_end(self) -> None:
        self._skip(FENCE)
        self._state = _State.TEXT

    def _skip(self, mark: str) -> bool:
        """Takes `mark` and the white space before it off the buffer, if they are there."""
        rest = self._buffer.lstrip()
        if len(rest) < len(mark) and mark.startswith(rest):
            raise Incomplete
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
