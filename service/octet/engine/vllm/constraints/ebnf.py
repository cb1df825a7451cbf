"""Grammars in EBNF (`name ::= alternatives`), read with the place of whatever is wrong with them."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

_LAST_CHARACTER = 0x10FFFF

# Deeper groups are refused, as reading them would exhaust the stack.
_MAX_DEPTH = 64
MAX_REPETITIONS = 10_000
MAX_RULES = 1_000
TOO_LARGE = "the grammar is too large, or its rules are too deep in each other; a JSON Schema may do instead"

# Looking at a node takes a microsecond.
_MAX_STEPS = 1_000_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_BEGINS_RULE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?:\s|#[^\n]*)*::=")
_COUNTS = re.compile(r"\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}")
_ESCAPES = {
    **{character: character for character in "\"'\\[]-/^"},
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "f": "\f",
    "v": "\v",
    "b": "\b",
    "a": "\a",
    "0": "\0",
}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}

# What other dialects have, and what is to be written instead.
_FOREIGN = (
    ("(=", "look-ahead is not served; write what follows as a part of the rule"),
    ("TagDispatch", "tags are not served; write the text as rules"),
    ("/", "regular expressions belong into output_format.regex; write character classes"),
    ("'", 'literals are written in double quotes: "..."'),
    ("<", "names of rules and tokens are written without < and >"),
    (";", "a rule ends where the next one begins; leave the ; out"),
    (",", "parts follow each other without a comma"),
)


class GrammarError(ValueError):
    """A grammar that is none, or that cannot be enforced; the message names line and column."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character out of ranges of code points, both ends included; sorted, without overlaps."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other; the empty text when there are none."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them."""

    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Repetition:
    """`least` to `most` times the item; None for any number."""

    item: "Node"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Reference:
    """What the rule derives."""

    name: str


Node = Characters | Sequence | Choice | Repetition | Reference


def parse(text: str) -> dict[str, Node]:
    """The rules of a grammar by their names, each of which derives a text and is reached from "root".

    Raises:
        GrammarError: when it is none.
    """
    return _Parser(text).rules()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._references: dict[str, int] = {}
        self._begins: dict[str, int] = {}

    def rules(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._skip_blank()
        while self._at < len(self._text):
            begin = self._at
            match = _BEGINS_RULE.match(self._text, self._at)
            if match is None:
                self._fail('is not the beginning of a rule; rules are written name ::= "text" | other', begin)
            name = self._name()
            if len(rules) == MAX_RULES:
                self._fail(f"has more than {MAX_RULES} rules", begin)
            if name in rules:
                self._fail(f"the rule {name} is defined a second time", begin)
            self._begins[name] = begin
            self._at = match.end()
            rules[name] = self._choice(0)
        if "root" not in rules:
            self._fail('there is no rule named "root", which the text begins with', 0)
        for name, begin in self._references.items():
            if name not in rules:
                self._fail(f"there is no rule named {name}", begin)
        reached = {name: rules[name] for name in _reached(rules)}
        productive = _productive(reached)
        for name in (name for name in reached if name not in productive):
            self._fail(f"the rule {name} never comes to an end: it always needs itself", self._begins[name])
        return reached

    def _choice(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            self._fail(f"groups are nested more than {_MAX_DEPTH} deep", self._at)
        items = [self._sequence(depth)]
        while self._take("|"):
            items.append(self._sequence(depth))
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self, depth: int) -> Node:
        items: list[Node] = []
        self._skip_blank()
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            if _BEGINS_RULE.match(self._text, self._at):
                break
            items.append(self._repeated(self._item(depth)))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _item(self, depth: int) -> Node:
        begin, character = self._at, self._text[self._at]
        for mark, instead in _FOREIGN:
            if self._text.startswith(mark, self._at):
                self._fail(instead, begin)
        if character == '"':
            return self._literal()
        if character == "[":
            return self._class()
        if character == ".":
            self._at += 1
            return Characters(_complement([(10, 10)]))
        if character == "(":
            self._at += 1
            inner = self._choice(depth + 1)
            if not self._take(")"):
                self._fail("this group is not closed; its ) is missing", begin)
            return inner
        if _NAME.match(self._text, self._at):
            name = self._name()
            self._references.setdefault(name, begin)
            return Reference(name)
        raise self._error(f"{character!r} is not expected here", begin)

    def _repeated(self, item: Node) -> Node:
        self._skip_blank()
        if self._at < len(self._text) and (mark := self._text[self._at]) in "*+?{":
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(mark, (0, 0))
            begin = self._at
            if mark == "{":
                match = _COUNTS.match(self._text, begin)
                if match is None:
                    self._fail("repetitions are written {2}, {2,} or {2,5}", begin)
                least = int(match[1])
                most = least if match[2] is None else int(match[3]) if match[3] else None
                if max(least, most or 0) > MAX_REPETITIONS:
                    self._fail(f"repeats more than {MAX_REPETITIONS} times", begin)
                if most is not None and most < least:
                    self._fail(f"repeats at least {least} and at most {most} times", begin)
            self._at = self._at + 1 if mark != "{" else match.end()  # type: ignore[union-attr]
            item = Repetition(item, least, most)
            self._skip_blank()
        return item

    def _literal(self) -> Node:
        begin = self._at
        self._at += 1
        characters: list[Node] = []
        while True:
            if self._at >= len(self._text) or self._text[self._at] == "\n":
                self._fail("this literal is not closed on its line", begin)
            if self._text[self._at] == '"':
                self._at += 1
                break
            point = self._character()
            characters.append(Characters(((point, point),)))
        self._skip_blank()
        return characters[0] if len(characters) == 1 else Sequence(tuple(characters))

    def _class(self) -> Node:
        begin = self._at
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        ranges: list[tuple[int, int]] = []
        while True:
            if self._at >= len(self._text) or self._text[self._at] == "\n":
                self._fail("this character class is not closed on its line", begin)
            if self._text[self._at] == "]":
                self._at += 1
                break
            low = high = self._character()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._character()
                if high < low:
                    self._fail("this range ends before it begins", begin)
            ranges.append((low, high))
        merged = _complement(ranges) if negated else _merged(ranges)
        if not merged:
            self._fail("this character class holds no character", begin)
        self._skip_blank()
        return Characters(merged)

    def _character(self) -> int:
        begin = self._at
        if begin >= len(self._text):
            self._fail("a character is missing", begin)
        character = self._text[begin]
        self._at += 1
        if character != "\\":
            return ord(character)
        escape = self._text[self._at : self._at + 1]
        self._at += 1
        if escape in _HEX_DIGITS:
            digits = self._text[self._at : self._at + _HEX_DIGITS[escape]]
            self._at += len(digits)
            if len(digits) == _HEX_DIGITS[escape] and re.fullmatch("[0-9A-Fa-f]+", digits):
                point = int(digits, 16)
                if point <= _LAST_CHARACTER and not 0xD800 <= point <= 0xDFFF:
                    return point
        elif escape and escape in _ESCAPES:
            return ord(_ESCAPES[escape])
        raise self._error(
            rf"\{escape} is no escape; there are \n \r \t \\ \" \] \- \xHH \uHHHH and \UHHHHHHHH", begin
        )

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        if not _BEGINS_RULE.match(self._text, match.start()):
            self._skip_blank()
        return match[0]

    def _take(self, mark: str) -> bool:
        self._skip_blank()
        if not self._text.startswith(mark, self._at):
            return False
        self._at += 1
        self._skip_blank()
        return True

    def _skip_blank(self) -> None:
        match = _BLANK.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _fail(self, problem: str, at: int) -> NoReturn:
        raise self._error(problem, at)

    def _error(self, problem: str, at: int) -> GrammarError:
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        return GrammarError(f"line {line}, column {column}: {problem}")


def inner(node: Node) -> tuple[Node, ...]:
    """The nodes right inside of a node."""
    match node:
        case Sequence(items) | Choice(items):
            return items
        case Repetition(item):
            return (item,)
        case _:
            return ()


def references(node: Node) -> Iterator[str]:
    """The names of the rules that a node refers to itself."""
    stack = [node]
    while stack:
        node = stack.pop()
        if isinstance(node, Reference):
            yield node.name
        stack.extend(inner(node))


def settle(rules: Mapping[str, Node], holds: Callable[[Node, set[str]], bool]) -> set[str]:
    """The rules of which something holds, given of which ones it does.

    Raises:
        GrammarError: when that takes too many steps.
    """
    settled: set[str] = set()
    passes, before = 0, -1
    while len(settled) > before:
        before, passes = len(settled), passes + 1
        if passes * sum(map(nodes, rules.values())) > _MAX_STEPS:
            raise GrammarError(TOO_LARGE)
        # Rules mostly refer to later ones.
        for name in reversed(list(rules)):
            if name not in settled and holds(rules[name], settled):
                settled.add(name)
    return settled


def nodes(node: Node) -> int:
    """How many nodes there are in a node, itself included."""
    return 1 + sum(map(nodes, inner(node)))


def _reached(rules: Mapping[str, Node]) -> list[str]:
    reached = {"root": None}
    waiting = ["root"]
    while waiting:
        for name in references(rules[waiting.pop()]):
            if name not in reached:
                reached[name] = None
                waiting.append(name)
    return list(reached)


def _productive(rules: Mapping[str, Node]) -> set[str]:
    """The rules that derive a text at all."""

    def ends(node: Node, productive: set[str]) -> bool:
        match node:
            case Reference(name):
                return name in productive
            case Choice(items):
                return any(ends(item, productive) for item in items)
            case Sequence(items):
                return all(ends(item, productive) for item in items)
            case Repetition(item, least, _):
                return least == 0 or ends(item, productive)
            case _:
                return True

    return settle(rules, ends)


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _complement(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    # What is no character of its own in UTF-8 either way.
    taken = _merged([*ranges, (0xD800, 0xDFFF)])
    complement, begin = [], 0
    for low, high in taken:
        if begin < low:
            complement.append((begin, low - 1))
        begin = high + 1
    if begin <= _LAST_CHARACTER:
        complement.append((begin, _LAST_CHARACTER))
    return tuple(complement)
