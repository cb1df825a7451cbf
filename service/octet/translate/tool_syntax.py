"""How one call is written: as an object, as a Python call, and as a statement that makes some."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from octet.translate.growing_text import CutOff, GrowingText, NoCall, Steps, Words
from octet.translate.tool_values import ValueReader, object_of_text

# Modules that models have been taught to write before a function's name.
PREFIXES = ("default_api", "functions", "tools")

NAME_KEYS = ("name", "function", "tool", "tool_name")
"""The keys of an object under which the name of the function may stand."""

# What may hold an object with the name and the arguments, and a list of such.
_CALL_KEYS = ("function", "function_call", "tool_call")
_LIST_KEY = "tool_calls"
_ARGUMENT_KEYS = ("parameters", "arguments", "args", "input")
# What else an object that is a call may say; a number, a short string, or nothing.
_OTHER_KEYS = ("id", "call_id", "tool_call_id", "index", "type")
_KEYS = Words([*NAME_KEYS, *_CALL_KEYS, _LIST_KEY, *_ARGUMENT_KEYS, *_OTHER_KEYS])
_OTHER_LENGTH = 128

NAME = re.compile(r"[A-Za-z0-9_.-]*")
BLANKS = re.compile(r"[ \t\r]*")
SPACE = re.compile(r"\s*")
# What a variable may be called. In a line of text, sentences mostly begin otherwise and need not wait.
_VARIABLE_IN_TEXT = re.compile(r"[a-z_][A-Za-z0-9_]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_IN_STRING = re.compile(r"[^\"'\\\n]*")


def spellings(names: Iterable[str]) -> dict[str, str]:
    """How tools are called, alone and with a module before them, and the names that this means."""
    spelled = {}
    for name in names:
        spelled[name] = name
        for prefix in PREFIXES:
            spelled.setdefault(f"{prefix}.{name}", name)
    return spelled


@dataclass(frozen=True, slots=True)
class Call:
    """A call, with its arguments as JSON text."""

    name: str
    arguments: str


class CallSink(Protocol):
    """Takes the calls that objects make, as they come."""

    def begin(self, name: str, arguments: list[str]) -> None:
        """A call's arguments begin; what is appended to `arguments` up to `end` is their JSON text."""

    def end(self) -> None:
        """They are complete."""

    def read_list(self) -> Steps[None]:
        """Reads a list of calls from its bracket on to the closing one."""


@dataclass(slots=True)
class _Members:
    """What has been read of an object that may be a call."""

    keys: set[str] = field(default_factory=set)
    name: str = ""
    nested: bool = False
    arguments: str = ""
    given: bool = False  # whether the sink has got the call


class CallReader:
    """Reads calls of tools on offer.

    Its methods raise NoCall where something else is read, and CutOff where the answer ends too early.

    Attributes:
        within: whether a call has begun whose arguments are not complete.
    """

    def __init__(
        self,
        source: GrowingText,
        names: Iterable[str],
        parameters: Mapping[str, Sequence[str]],
        sink: CallSink,
        held: Mapping[str, Callable[[int], bool]],
    ) -> None:
        """Prepares to read.

        Args:
            source: the answer.
            names: the tools on offer.
            parameters: the names that their arguments have, in order.
            sink: takes what objects make.
            held: for those of which nothing else is a call, whether arguments that begin at a place are such.
        """
        self._names = spellings(names)
        self._held = held
        self._spellings = Words(self._names)
        self._source = source
        self._parameters = parameters
        self._sink = sink
        self._lists = False  # whether an object has a list, which is read
        self.within = False

    def object(self) -> Steps[None]:
        """Reads an object from its brace on to the closing one; the sink gets the call."""
        members = _Members()
        yield from self._members(members, level=1)
        if members.given:
            self._source.drop()
            return
        has_arguments = not members.keys.isdisjoint(_ARGUMENT_KEYS)
        # A name alone is a call without arguments; with anything else it is a thing that has a name.
        if not members.name or not (has_arguments or members.nested or len(members.keys) == 1):
            raise NoCall
        if members.name in self._held:
            raise NoCall
        self._sink.begin(members.name, [members.arguments or "{}"])
        self._sink.end()

    def _members(self, members: _Members, *, level: int) -> Steps[None]:
        """Reads an object's members. Behind the call they may be whatever they are."""
        source = self._source
        source.at += 1
        while True:
            yield from source.run(SPACE)
            if members.given:
                yield from ValueReader(source, python=False).member()
            else:
                yield from self._member(members, level)
            yield from source.run(SPACE)
            comma = yield from source.skips(",")
            yield from source.run(SPACE)
            if (yield from source.need()) == "}":
                source.at += 1
                return
            if not comma:
                raise NoCall

    def _member(self, members: _Members, level: int) -> Steps[None]:
        source = self._source
        key = yield from self._one_of(_KEYS)
        if key in members.keys:
            raise NoCall
        members.keys.add(key)
        yield from source.run(SPACE)
        yield from source.expect(":")
        yield from source.run(SPACE)
        char = yield from source.need()
        if key in _CALL_KEYS and char == "{" and level == 1:
            members.nested = True
            yield from self._members(members, level=2)
        elif key == _LIST_KEY and char == "[" and len(members.keys) == 1 and not self._lists:
            yield from self._list()
            members.given = True
        elif key in NAME_KEYS:
            if members.name:
                raise NoCall
            members.name = self._names[(yield from self._one_of(self._spellings))]
        elif key in _OTHER_KEYS:
            yield from self._other(char)
        elif key not in _ARGUMENT_KEYS or members.arguments:
            raise NoCall
        elif members.name and char == "{":
            yield from self._arguments(members.name)
            members.given = True
        else:
            members.arguments = yield from self._whole_arguments(char)

    def _list(self) -> Steps[None]:
        """A list of calls in an object; there is none in another one."""
        self._lists = True
        try:
            yield from self._sink.read_list()
        finally:
            self._lists = False

    def _arguments(self, name: str) -> Steps[None]:
        """Arguments of a call whose name is known, which goes on whatever they are."""
        if name in self._held and not self._held[name](self._source.place):
            raise NoCall
        reader = ValueReader(self._source, python=False)
        self.within = True
        self._sink.begin(name, reader.out)
        try:
            yield from reader.mapping()
        except NoCall:
            yield from reader.rest_as_it_is()
        self.within = False
        self._sink.end()

    def _whole_arguments(self, char: str) -> Steps[str]:
        """Arguments that are a string, come before the name, or are left out."""
        reader = ValueReader(self._source, python=False)
        yield from reader.value()
        written = "".join(reader.out)
        if char == "{":
            return written
        if char in "\"'":
            try:
                return object_of_text(json.loads(written))
            except (ValueError, CutOff) as error:
                raise NoCall from error
        if written != "null":
            raise NoCall
        return "{}"

    def _other(self, char: str) -> Steps[None]:
        """A member that tells nothing about the call: a short text, a number or nothing."""
        source, quote = self._source, ""
        if char in "\"'":
            quote = yield from source.next()
        pattern = _IN_STRING if quote else NAME
        other = yield from source.beginning(pattern, lambda start: len(start) <= _OTHER_LENGTH)
        if quote:
            yield from source.expect(quote)
        elif not other:
            raise NoCall

    def _one_of(self, words: Words) -> Steps[str]:
        """A string without escapes that is one of `words`."""
        if (yield from self._source.need()) not in "\"'":
            raise NoCall
        quote = yield from self._source.next()
        word = yield from self._source.word(_IN_STRING, words)
        yield from self._source.expect(quote)
        return word

    def name(self) -> Steps[str]:
        """Reads the name of a tool."""
        return (yield from self._source.word(NAME, self._spellings))

    def call(self, name: str) -> Steps[Call]:
        """Reads a Python call behind its `name`."""
        yield from self._source.run(BLANKS)
        if (yield from self._source.need()) != "(":
            raise NoCall
        name = self._names[name]
        if name in self._held and not self._held[name](self._source.place):
            raise NoCall
        reader = ValueReader(self._source, python=True)
        self.within = True
        try:
            yield from reader.arguments(self._parameters.get(name, ()))
        except NoCall:
            self.within = False
            raise
        self.within = False
        return Call(name, "".join(reader.out))

    def statement(self, calls: list[Call], variables: set[str] | None) -> Steps[None]:
        """Reads a Python statement that makes calls, up to its last bracket.

        Args:
            calls: gets the calls.
            variables: those that hold earlier calls' results, and may be printed; None in a line of text.
        """
        source = self._source
        word = yield from self._first_word(variables)
        if _may_be_variable(word, variables) and (yield from source.skips("=")):
            if variables is not None:
                variables.add(word)
            yield from source.run(BLANKS)
            if (yield from source.need()) == "[":
                yield from self._several(calls, "]", ())
                return
            word = yield from self._first_word(None)
        if word == "await" and word not in self._spellings:
            word = yield from self.name()
        elif word == "print" and word not in self._spellings and (yield from source.need()) == "(":
            yield from self._several(calls, ")", variables or ())
            return
        elif word not in self._spellings:
            raise NoCall
        calls.append((yield from self.call(word)))

    def _first_word(self, variables: set[str] | None) -> Steps[str]:
        """A word with which a statement, or what it assigns, may begin, and the blanks behind it."""

        def may_begin(start: str) -> bool:
            return self._spellings.begin_with(start) or _may_be_variable(start, variables)

        word = yield from self._source.beginning(NAME, may_begin)
        if not word:
            raise NoCall
        if not (yield from self._source.peek()) and word not in self._spellings:
            raise CutOff if self._spellings.begin_with(word) else NoCall
        yield from self._source.run(BLANKS)
        return word

    def _several(self, calls: list[Call], close: str, variables: Collection[str]) -> Steps[None]:
        """Calls between brackets, or variables."""
        source, words = self._source, Words([*self._names, *variables])
        source.at += 1
        while True:
            yield from source.run(SPACE)
            name = yield from source.word(NAME, words)
            if name not in variables:
                calls.append((yield from self.call(name)))
            yield from source.run(SPACE)
            comma = yield from source.skips(",")
            yield from source.run(SPACE)
            if (yield from source.need()) == close:
                source.at += 1
                return
            if not comma:
                raise NoCall


def _may_be_variable(word: str, variables: set[str] | None) -> bool:
    """Whether this may be a variable, or the beginning of its name; `variables` is None in a line of text."""
    return (_VARIABLE_IN_TEXT if variables is None else _VARIABLE).fullmatch(word) is not None
