"""Tool calls in a model's answer, found as it grows.

A call is written in one of these ways, alone or between other text:

* a JSON object ``{"name": "f", "parameters": {...}}``; ``arguments`` may stand for ``parameters``;
* a Python call with keyword arguments that are literals, alone on its lines: ``f(a="b")``;
* a list of such objects or calls: ``[f(a="b"), g()]``;
* one or more of these in a fenced block marked json, python, tool_code or not at all.

Only the names of tools on offer make a call. Whatever else looks like one stays text.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from octet.translate.tool_syntax import (
    FENCE,
    Balance,
    Incomplete,
    NoCall,
    Opening,
    Reader,
    call_start,
    json_call,
    python_call,
    stands_alone,
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
    COLLECTED = auto()  # behind that bracket
    ARGUMENTS = auto()  # in the arguments of a call that has been reported
    OBJECT_END = auto()  # behind those, before the brace that ends the call
    ELEMENT_END = auto()  # behind a call in a list
    FENCE_END = auto()  # behind a call in a fenced block
    DONE = auto()  # behind the only call that is wanted


class ToolCallScanner:
    """Separates calls from text, given piece by piece; reports each part as soon as it is certain.

    What is reported adds up to the same whatever the pieces are, and nothing is taken back. The arguments of
    a JSON object that names its tool first are the model's own characters, as they come; all others are
    written anew as JSON when the call is complete. White space next to a call is left out.
    """

    def __init__(self, names: Collection[str], *, one_call: bool = False) -> None:
        """`names` are the tools on offer; with `one_call` the answer ends behind the first."""
        self._names = frozenset(names)
        self._one_call = one_call
        self._buffer = ""
        self._state = _State.TEXT
        self._balance = Balance(python=False)
        self._begin = 0  # where in the buffer begins what is collected
        self._in_list = False
        self._fenced = False
        self._python = False
        self._calls = 0
        self._at_line_start = True
        self._space = ""  # white space that is dropped if a call follows
        self._behind_call = False
        self._found: list[Found] = []

    @property
    def done(self) -> bool:
        """Whether the only call that was wanted is complete; whatever follows is dropped."""
        return self._state is _State.DONE

    def feed(self, text: str) -> list[Found]:
        """Takes the next piece of the answer; returns what has become certain."""
        self._buffer += text
        self._advance()
        return self._take()

    def finish(self) -> list[Found]:
        """The answer has ended; returns the rest. What has not become a call by now is text."""
        if self._state is _State.COLLECTED:
            self._conclude()
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
            _State.COLLECTED: self._step_collected,
            _State.ARGUMENTS: self._step_arguments,
            _State.OBJECT_END: self._step_object_end,
            _State.ELEMENT_END: self._step_element_end,
            _State.FENCE_END: self._step_fence_end,
            _State.DONE: self._step_done,
        }
        try:
            while self._buffer:
                steps[self._state]()
        except Incomplete:
            pass

    # Each step takes something off the buffer or changes the state, or raises Incomplete.

    def _step_text(self) -> None:
        start = call_start(self._buffer, self._names, at_line_start=self._at_line_start)
        self._text(self._cut(len(self._buffer) if start is None else start))
        if start is None:
            return
        try:
            opening = Reader(self._buffer, self._names).opening()
        except NoCall:
            self._text(self._cut(1))
        else:
            self._enter(opening)

    def _enter(self, opening: Opening) -> None:
        self._in_list, self._fenced, self._python = opening.in_list, opening.fenced, opening.python
        if opening.name is None:
            self._begin, self._state = opening.end, _State.COLLECT
            self._balance = Balance(python=opening.python, at=opening.end)
        else:
            self._call(opening.name)
            self._cut(opening.end)
            self._state, self._balance = _State.ARGUMENTS, Balance(python=False)

    def _step_collect(self) -> None:
        if self._balance.advance(self._buffer) is None:
            raise Incomplete
        self._state = _State.COLLECTED if self._python else _State.TEXT
        if not self._python:
            self._conclude()

    def _step_collected(self) -> None:
        """What follows a Python call tells whether it is one, or a part of something else."""
        follows = self._buffer[self._balance.at :]
        try:
            if self._in_list:
                Reader(follows, self._names).one_of(",]")
            elif not stands_alone(follows, fenced=self._fenced):
                raise NoCall
        except NoCall:
            self._state = _State.TEXT
            self._text(self._cut(self._balance.at))
        else:
            self._conclude()

    def _conclude(self) -> None:
        """Takes what was collected off the buffer, as a call or as text."""
        written = self._cut(self._balance.at)
        try:
            name, arguments = (python_call if self._python else json_call)(written[self._begin :])
            if name not in self._names:
                raise NoCall
        except NoCall:
            self._state = _State.TEXT
            self._text(written)
            return
        self._call(name)
        self._arguments(arguments)
        self._end_call()

    def _step_arguments(self) -> None:
        end = self._balance.advance(self._buffer)
        self._arguments(self._cut(self._balance.at))
        self._balance.at = 0
        if end is None:
            raise Incomplete
        self._state = _State.DONE if self._one_call else _State.OBJECT_END

    def _step_object_end(self) -> None:
        if self._skip("}"):
            self._end_call()
        else:
            self._state = _State.TEXT

    def _end_call(self) -> None:
        if self._one_call:
            self._state = _State.DONE
        elif self._in_list:
            self._state = _State.ELEMENT_END
        else:
            self._state = _State.FENCE_END if self._fenced else _State.TEXT

    def _step_element_end(self) -> None:
        reader = Reader(self._buffer, self._names)
        try:
            opening = None
            if reader.one_of(",]") == "," and not reader.skips("]"):
                opening = reader.element(in_list=True, fenced=self._fenced)
        except NoCall:
            self._state = _State.TEXT
            return
        if opening is None:
            self._cut(reader.at)
            self._in_list = False
            self._end_call()
        else:
            self._enter(opening)

    def _step_fence_end(self) -> None:
        if self._skip(FENCE):
            self._state = _State.TEXT
            return
        try:
            self._enter(Reader(self._buffer, self._names).statement(fenced=True))
        except NoCall:
            self._state = _State.TEXT

    def _step_done(self) -> None:
        self._buffer = ""

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
        line = text.rpartition("\n")[2]
        self._at_line_start = not line.strip(" \t") and ("\n" in text or self._at_line_start)
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
        self._space, self._behind_call, self._at_line_start = "", True, False
        self._found.append(CallFound(self._calls, name))
        self._calls += 1

    def _arguments(self, text: str) -> None:
        if text:
            self._found.append(ArgumentsFound(self._calls - 1, text))
