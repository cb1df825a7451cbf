"""Calls of strict tools: where in an answer decoding holds their arguments to a schema.

The form is an object's, from the key that names the tool on: what follows such a name is held, whatever came
before. A reader has to know which of the calls that it finds these are: the text of a held argument may look
like a call of its own, and so may an object in one.
"""

import re
from collections.abc import Collection, Iterable

from octet.engine.types import GenerationRequest, ToolChoiceMode
from octet.translate.tool_schema import offered
from octet.translate.tool_syntax import NAME_KEYS, spellings

_MOST_SPACE = 4

NAME_HEAD = rf'"(?:{"|".join(NAME_KEYS)})"[ \t\r\n]{{0,{_MOST_SPACE}}}:[ \t\r\n]{{0,{_MOST_SPACE}}}"'
"""What comes before a name, as a regular expression in Python's syntax and in that of Rust's regex crate."""

ARGUMENT_HEADS = tuple(f'", "{key}": ' for key in ("parameters", "arguments"))
"""What may come between a name and the arguments, from the name's closing quote on."""

_NAME_HEAD = re.compile(NAME_HEAD)
_LONGEST_HEAD = max(map(len, NAME_KEYS)) + len('"":"') + 2 * _MOST_SPACE


def strict_tools(request: GenerationRequest) -> list[int]:
    """The places of the tools whose calls are held while the model is free to write anything else."""
    if request.tool_choice.mode is not ToolChoiceMode.AUTO or request.output_format is not None:
        return []
    return [i for i in offered(request.tools, request.tool_choice) if request.tools[i].strict]


def strict_spellings(names: Iterable[str], strict: Collection[str]) -> dict[str, str]:
    """How those of some tools are called that are strict, and the names that this means."""
    return {spelling: name for spelling, name in spellings(names).items() if name in strict}


class HeldArguments:
    """Follows an answer, and tells where in it arguments begin that decoding holds."""

    def __init__(self, names: Collection[str]) -> None:
        """`names` are those by which strict tools are called."""
        self._names = frozenset(names)
        self._longest = max(map(len, names))
        self._text = ""
        self._start = 0  # the place of `_text` in the answer
        self._at = 0  # up to here `_text` is done with
        self._depth = 0
        self._in_string = self._escaped = False
        self._begins: set[int] = set()
        self._read = self._head

    def feed(self, piece: str) -> None:
        """Takes the next piece of the answer."""
        self._text = self._text[self._at :] + piece
        self._start += self._at
        self._at = 0
        while self._read():
            pass

    def begin_at(self, place: int) -> bool:
        """Whether held arguments begin with the character of the answer that has this place."""
        return place in self._begins

    # Each step reads a part of what has come; it returns False where more has to come first.

    def _head(self) -> bool:
        found = _NAME_HEAD.search(self._text, self._at)
        if found is None:
            self._at = max(self._at, len(self._text) - _LONGEST_HEAD)
            return False
        self._at = found.end()
        self._read = self._name
        return True

    def _name(self) -> bool:
        end = self._text.find('"', self._at)
        if end < 0 and len(self._text) - self._at <= self._longest:
            return False
        held = end >= 0 and self._text[self._at : end] in self._names
        self._at = end if held else self._at
        self._read = self._between if held else self._other_name
        return True

    def _other_name(self) -> bool:
        end = self._text.find('"', self._at)
        self._at = len(self._text) if end < 0 else end + 1
        if end >= 0:
            self._read = self._head
        return end >= 0

    def _between(self) -> bool:
        for head in ARGUMENT_HEADS:
            if self._text.startswith(head + "{", self._at):
                self._at += len(head)
                self._begins.add(self._start + self._at)
                self._read = self._arguments
                return True
        rest = self._text[self._at :]
        if any((head + "{").startswith(rest) for head in ARGUMENT_HEADS):
            return False
        self._read = self._head
        return True

    def _arguments(self) -> bool:
        for at in range(self._at, len(self._text)):
            char = self._text[at]
            if self._in_string:
                self._in_string = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._in_string = True
            elif char in "{}":
                self._depth += 1 if char == "{" else -1
                if self._depth == 0:
                    self._at = at + 1
                    self._read = self._head
                    return True
        self._at = len(self._text)
        return False
