"""Tool calls in a model's answer, found as it grows.

A call is written in one of these ways, alone or between other text:

* a JSON object ``{"name": "f", "parameters": {...}}``; ``arguments`` may stand for ``parameters``;
* a Python call with keyword arguments that are literals, alone on its lines: ``f(a="b")``;
* a list of such objects or calls: ``[f(a="b"), g()]``;
* one or more of these in a fenced block marked json, python, tool_code or not at all.

Only the names of tools on offer make a call. Whatever else looks like one stays text.
"""

import re
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

    The work is in proportion to the text's length, whatever it holds and however it is cut: what has been
    decided on is not read again, and what waits is read again only where that can change something.
    """

    def __init__(self, names: Collection[str], *, one_call: bool = False) -> None:
        """`names` are the tools on offer; with `one_call` the answer ends behind the first."""
        self._names = frozenset(names)
        self._one_call = one_call
        self._buffer = ""  # what has come and is not decided on begins at `_at`
        self._at = 0
        self._waiting: list[str] = []  # what has come since, and leaves it at that
        self._idle: re.Pattern[str] | None = None  # what the next piece may be for that to go on
        self._state = _State.TEXT
        self._balance = Balance(python=False)
        self._before = ""  # what encloses the collected: it is text if that is no call
        self._collected: list[str] = []
        self._in_list = False
        self._fenced = False
        self._python = False
        self._calls = 0
        self._at_line_start = True
        self._space: list[str] = []  # white space that is dropped if a call follows
        self._behind_call = False
        self._text_found: list[str] = []
        self._found: list[Found] = []

    @property
    def done(self) -> bool:
        """Whether the only call that was wanted is complete; whatever follows is dropped."""
        return self._state is _State.DONE

    def feed(self, text: str) -> list[Found]:
        """Takes the next piece of the answer; returns what has become certain."""
        self._waiting.append(text)
        if self._idle is None or not self._idle.fullmatch(text):
            self._read_waiting()
            self._advance()
        return self._take()

    def finish(self) -> list[Found]:
        """The answer has ended; returns the rest. What has not become a call by now is text."""
        self._read_waiting()
        if self._state is _State.COLLECTED:
            self._conclude()
        rest = self._cut(len(self._buffer))
        if self._state is _State.ARGUMENTS:
            self._arguments(rest)
        elif self._state is not _State.DONE:
            if self._state is _State.COLLECT:
                rest = self._uncollect() + rest
            if rest.strip() or self._state is _State.TEXT:
                self._text(rest)
        self._text_found += self._space
        self._space.clear()
        return self._take()

    def _read_waiting(self) -> None:
        """Puts what waits behind what is not decided on."""
        self._buffer = "".join((self._buffer[self._at :], *self._waiting))
        self._at = 0
        self._waiting.clear()

    def _take(self) -> list[Found]:
        self._end_text()
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
        self._idle = None
        try:
            while self._at < len(self._buffer):
                steps[self._state]()
        except Incomplete as incomplete:
            self._idle = incomplete.idle

    # Each step takes something off the buffer or changes the state, or raises Incomplete.

    def _step_text(self) -> None:
        start = call_start(self._buffer, self._names, self._at, at_line_start=self._at_line_start)
        self._text(self._cut(len(self._buffer) if start is None else start))
        if start is None:
            return
        try:
            opening = self._reader().opening()
        except NoCall:
            self._text(self._cut(self._at + 1))
        else:
            self._enter(opening)

    def _enter(self, opening: Opening) -> None:
        self._in_list, self._fenced, self._python = opening.in_list, opening.fenced, opening.python
        self._balance = Balance(python=opening.python)
        before = self._cut(opening.end)
        if opening.name is None:
            self._before, self._state = before, _State.COLLECT
        else:
            self._call(opening.name)
            self._state = _State.ARGUMENTS

    def _step_collect(self) -> None:
        self._collected.append(self._cut(self._balance.advance(self._buffer, self._at)))
        if not self._balance.closed:
            raise Incomplete
        self._state = _State.COLLECTED
        if not self._python:
            self._conclude()

    def _step_collected(self) -> None:
        """What follows a Python call tells whether it is one, or a part of something else."""
        reader = self._reader()
        try:
            if self._in_list:
                reader.one_of(",]")
            elif not reader.stands_alone(fenced=self._fenced):
                raise NoCall
        except NoCall:
            self._state = _State.TEXT
            self._text(self._uncollect())
        else:
            self._conclude()

    def _conclude(self) -> None:
        """Makes what was collected a call, or text."""
        written = "".join(self._collected)
        try:
            name, arguments = (python_call if self._python else json_call)(written)
            if name not in self._names:
                raise NoCall
        except NoCall:
            self._state = _State.TEXT
            self._text(self._uncollect())
            return
        self._collected.clear()
        self._call(name)
        self._arguments(arguments)
        self._end_call()

    def _uncollect(self) -> str:
        """What was collected, with what encloses it; nothing is left of it."""
        text = "".join((self._before, *self._collected))
        self._collected.clear()
        return text

    def _step_arguments(self) -> None:
        self._arguments(self._cut(self._balance.advance(self._buffer, self._at)))
        if not self._balance.closed:
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
        reader = self._reader()
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
            self._enter(self._reader().statement(fenced=True))
        except NoCall:
            self._state = _State.TEXT

    def _step_done(self) -> None:
        self._cut(len(self._buffer))

    def _reader(self) -> Reader:
        return Reader(self._buffer, self._names, self._at)

    def _skip(self, mark: str) -> bool:
        """Takes `mark` and the white space before it off the buffer, if they are there."""
        reader = self._reader()
        if not reader.skips(mark):
            return False
        self._cut(reader.at)
        return True

    def _cut(self, end: int) -> str:
        """Takes what stands before `end` off the buffer."""
        head, self._at = self._buffer[self._at : end], end
        return head

    def _text(self, text: str) -> None:
        line = text.rpartition("\n")[2]
        self._at_line_start = not line.strip(" \t") and ("\n" in text or self._at_line_start)
        if self._behind_call:
            text = text.lstrip()
        kept = text.rstrip()
        if kept:
            self._behind_call = False
            self._text_found += (*self._space, kept)
            self._space.clear()
        if space := text[len(kept) :]:
            self._space.append(space)

    def _end_text(self) -> None:
        """Reports the text that has been found since the last call."""
        if self._text_found:
            self._found.append(TextFound("".join(self._text_found)))
            self._text_found.clear()

    def _call(self, name: str) -> None:
        self._behind_call, self._at_line_start = True, False
        self._space.clear()
        self._end_text()
        self._found.append(CallFound(self._calls, name))
        self._calls += 1

    def _arguments(self, text: str) -> None:
        if text:
            self._found.append(ArgumentsFound(self._calls - 1, text))
