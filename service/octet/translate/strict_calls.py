"""Calls of strict tools: where in an answer decoding holds their arguments to a schema.

There are two forms. An object's is held from the key on that names the tool, a Python call's from its bracket
on, wherever in the answer these stand. A reader has to know which of the calls that it finds are held: the
text of a held argument may look like a call of its own, and so may an object in one.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from octet.engine.types import GenerationRequest, ToolChoiceMode
from octet.translate.tool_schema import offered
from octet.translate.tool_syntax import NAME_KEYS, spellings

_MOST_SPACE = 4

NAME_HEAD = rf'"(?:{"|".join(NAME_KEYS)})"[ \t\r\n]{{0,{_MOST_SPACE}}}:[ \t\r\n]{{0,{_MOST_SPACE}}}"'
"""What comes before a name, as a regular expression in Python's syntax and in that of Rust's regex crate."""

ARGUMENT_HEADS = tuple(f'", "{key}": ' for key in ("parameters", "arguments"))
"""What may come between a name and the arguments, from the name's closing quote on."""

NAME_CHARACTERS = r"A-Za-z0-9_.\-"
"""What names consist of, as in a character class; none of these comes before the name in a Python call."""

MOST_FUNCTIONS = 8
"""Where more tools are strict, Python calls of none are held: looking for their names would take too much."""

# What says nothing about an object but its properties, each for itself.
_OF_PROPERTIES = {"type", "properties", "required", "additionalProperties"}
_OF_NOTHING = {"title", "description", "default", "examples", "$schema", "$comment"}
_KEYWORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_LONGEST_HEAD = max(map(len, NAME_KEYS)) + len('"":"') + 2 * _MOST_SPACE


def strict_tools(request: GenerationRequest) -> list[int]:
    """The places of the tools whose calls are held while the model is free to write anything else."""
    if request.tool_choice.mode is not ToolChoiceMode.AUTO or request.output_format is not None:
        return []
    return [i for i in offered(request.tools, request.tool_choice) if request.tools[i].strict]


def strict_functions(request: GenerationRequest) -> dict[str, list[str]]:
    """The names of those of them whose calls are held in Python's form, too, and their arguments, in order.

    Their schemas are no more than properties, with names that Python could use and without references. There
    are none where more than `MOST_FUNCTIONS` tools are strict.
    """
    strict = [request.tools[i] for i in strict_tools(request)]
    if len(strict) > MOST_FUNCTIONS:
        return {}
    keywords = {tool.name: _keywords(tool.parameters) for tool in strict}
    return {name: listed for name, listed in keywords.items() if listed is not None}


def _keywords(parameters: Mapping[str, Any]) -> list[str] | None:
    listed = parameters.get("properties", {})
    closed = parameters.get("additionalProperties", not listed) is False
    simple = parameters.keys() <= _OF_PROPERTIES | _OF_NOTHING and "$ref" not in json.dumps(dict(parameters))
    if not (simple and closed and listed.keys() >= set(parameters.get("required", ()))):
        return None
    return list(listed) if all(map(_KEYWORD.fullmatch, listed)) else None


def strict_spellings(names: Iterable[str], strict: Collection[str]) -> dict[str, str]:
    """How those of some tools are called that are strict, and the names that this means."""
    return {spelling: name for spelling, name in spellings(names).items() if name in strict}


class HeldArguments:
    """Follows an answer, and tells where in it arguments begin that decoding holds."""

    def __init__(self, names: Collection[str], functions: Collection[str] = ()) -> None:
        """Begins to follow.

        Args:
            names: how strict tools are called.
            functions: those of them by which they are called in Python's form.
        """
        self._names = frozenset(names)
        self._longest = max(map(len, names))
        heads = [NAME_HEAD]
        if functions:
            heads.append(rf"(?<![{NAME_CHARACTERS}])(?:{'|'.join(map(re.escape, functions))})\(")
        self._heads = re.compile("|".join(heads))
        self._text = ""
        self._start = 0  # the place of `_text` in the answer
        self._at = 0  # up to here `_text` is done with
        self._brackets = "{}"
        self._depth = 0
        self._in_string = self._escaped = False
        self._begins: set[int] = set()
        self._read = self._head

    def feed(self, piece: str) -> None:
        """Takes the next piece of the answer."""
        # What comes next may depend on the character before it.
        done = max(self._at - 1, 0)
        self._text = self._text[done:] + piece
        self._start += done
        self._at -= done
        while self._read():
            pass

    def begin_at(self, place: int) -> bool:
        """Whether held arguments begin with the bracket of the answer that has this place."""
        return place in self._begins

    # Each step reads a part of what has come; it returns False where more has to come first.

    def _head(self) -> bool:
        found = self._heads.search(self._text, self._at)
        if found is None:
            self._at = max(self._at, len(self._text) - max(_LONGEST_HEAD, self._longest + 1))
            return False
        if found[0].endswith("("):
            return self._begin(found.end() - 1, "()")
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
                return self._begin(self._at + len(head), "{}")
        rest = self._text[self._at :]
        if any((head + "{").startswith(rest) for head in ARGUMENT_HEADS):
            return False
        self._read = self._head
        return True

    def _begin(self, at: int, brackets: str) -> bool:
        self._at, self._brackets = at, brackets
        self._begins.add(self._start + at)
        self._read = self._arguments
        return True

    def _arguments(self) -> bool:
        for at in range(self._at, len(self._text)):
            char = self._text[at]
            if self._in_string:
                self._in_string = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._in_string = True
            elif char in self._brackets:
                self._depth += 1 if char == self._brackets[0] else -1
                if self._depth == 0:
                    self._at = at + 1
                    self._read = self._head
                    return True
        self._at = len(self._text)
        return False
