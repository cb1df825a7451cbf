r"""Grammars in EBNF as llguidance's dialect of Lark.

EBNF describes texts by their characters, Lark by lexemes, each of which takes as much as it can: a lexeme
/[a-z]*/ before an "x" never leaves the x. A part of a grammar becomes a lexeme only where that makes no
difference; single characters are always safe, and slow with a large vocabulary. So everything regular is
taken for a lexeme at first, and what could take too much is split into its parts until nothing can.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from octet.engine.vllm.constraints.ebnf import (
    TOO_LARGE,
    Characters,
    Choice,
    GrammarError,
    Node,
    Reference,
    Repetition,
    Sequence,
    inner,
    parse,
    references,
    settle,
)

# Larger expressions are split, for they take quadratic time to look at.
_MAX_POSITIONS = 192
# Each takes a third of a microsecond.
_MAX_STEPS = 1_000_000
_ASCII = 0x7F

# What stands for itself in a regular expression.
_QUOTED = re.compile(r"[^0-9A-Za-z_]")


def to_lark(text: str) -> str:
    """A grammar in EBNF in Lark.

    Raises:
        GrammarError: when it is none, or too large.
    """
    try:
        grammar = _Grammar(parse(text))
        writer = _Writer(grammar)
        if "root" not in grammar.irregular:
            # The text is one lexeme: nothing comes after it.
            return writer.lark({}, _Lexeme(Reference("root")))
        return writer.lark(_safe(grammar), _Plan("rule", name="root"))
    except RecursionError:
        raise GrammarError(TOO_LARGE) from None


def literal(text: str) -> str:
    """A regular expression that matches `text` alone."""
    return _QUOTED.sub(lambda match: f"\\x{{{ord(match[0]):x}}}", text)


class _Grammar:
    """The rules, with what is needed to know about their parts.

    Attributes:
        irregular: the rules that reach themselves, or one that does; all others are regular expressions.
    """

    def __init__(self, rules: Mapping[str, Node]) -> None:
        self.rules = rules
        regular = settle(rules, lambda node, regular: all(name in regular for name in references(node)))
        self.irregular = rules.keys() - regular
        self._nullable = settle(rules, _nullable)
        self._sizes: dict[str, int] = {}

    def regular(self, node: Node) -> bool:
        return not any(name in self.irregular for name in references(node))

    def nullable(self, node: Node) -> bool:
        """Whether a part derives the empty text."""
        return _nullable(node, self._nullable)

    def size(self, node: Node) -> int:
        """How many positions the automaton of a regular part has, counted up to a little over the limit."""
        match node:
            case Characters():
                return 1
            case Reference(name):
                if name not in self._sizes:
                    self._sizes[name] = self.size(self.rules[name])
                return self._sizes[name]
            case Repetition(item, least, most):
                return min(self.size(item) * max(least, most or 0, 1), _MAX_POSITIONS + 1)
            case _:
                return min(sum(self.size(item) for item in inner(node)), _MAX_POSITIONS + 1)


def _nullable(node: Node, rules: set[str]) -> bool:
    match node:
        case Reference(name):
            return name in rules
        case Sequence(items):
            return all(_nullable(item, rules) for item in items)
        case Choice(items):
            return any(_nullable(item, rules) for item in items)
        case Repetition(item, least, _):
            return least == 0 or _nullable(item, rules)
        case _:
            return False


@dataclass(frozen=True, slots=True)
class _Lexeme:
    """A regular part that is not empty, taken as one."""

    node: Node


@dataclass(frozen=True, slots=True)
class _Plan:
    """An irregular part, or one that was split: `kind` as in EBNF, of parts."""

    kind: str
    parts: "tuple[_Part, ...]" = ()
    counts: tuple[int, int | None] = (1, 1)
    name: str = ""


_Part = _Lexeme | _Plan


class _Planner:
    """Divides the bodies of rules into lexemes, but for the parts in `split`."""

    def __init__(self, grammar: _Grammar, split: set[Node]) -> None:
        self._grammar = grammar
        self._split = split

    def parts(self) -> dict[str, _Part]:
        """The rules that are no part of lexemes."""
        parts: dict[str, _Part] = {}
        waiting = ["root"]
        while waiting:
            if (name := waiting.pop()) not in parts:
                parts[name] = self.part(self._grammar.rules[name])
                waiting += _rules_in(parts[name])
        return parts

    def part(self, node: Node) -> _Part:
        grammar = self._grammar
        if isinstance(node, Reference) and node.name in grammar.irregular:
            return _Plan("rule", name=node.name)
        if grammar.regular(node) and node not in self._split and grammar.size(node) <= _MAX_POSITIONS:
            if not grammar.nullable(node):
                return _Lexeme(node)
            if isinstance(node, Repetition) and node.least == 0 and not grammar.nullable(node.item):
                return _Plan("repetition", (self.part(Repetition(node.item, 1, node.most)),), (0, 1))
        match node:
            case Characters():
                return _Lexeme(node)
            case Reference(name):
                return _Plan("rule", name=name)
            case Choice(items):
                return _Plan("choice", tuple(self.part(item) for item in items))
            case Repetition(item, least, most):
                return _Plan("repetition", (self.part(item),), (least, most))
            case Sequence(items):
                return _Plan("sequence", tuple(self._runs(node, items)))

    def _runs(self, node: Node, items: tuple[Node, ...]) -> Iterator[_Part]:
        """The parts of a sequence, its regular neighbours as one where they may be."""
        run: list[Node] = []
        for item in (*items, None):
            if item is not None and self._grammar.regular(item):
                run.append(item)
                continue
            whole = Sequence(tuple(run))
            if len(run) > 1 and whole != node and not self._grammar.nullable(whole):
                yield self.part(whole)
            else:
                yield from (self.part(each) for each in run)
            run = []
            if item is not None:
                yield self.part(item)


def _rules_in(part: _Part) -> Iterator[str]:
    if isinstance(part, _Plan):
        if part.kind == "rule":
            yield part.name
        for inside in part.parts:
            yield from _rules_in(inside)


def _safe(grammar: _Grammar) -> dict[str, _Part]:
    """The irregular rules, divided into lexemes none of which takes too much."""
    alphabet = _Alphabet(grammar)
    split: set[Node] = set()
    looks = _Looks(grammar, alphabet)
    while True:
        planner = _Planner(grammar, split)
        parts = planner.parts()
        follow = _Following(parts, grammar, looks).of_lexemes
        conflicts = set(_conflicts(follow, looks, alphabet))
        if not conflicts:
            return parts
        split |= conflicts


def _conflicts(follow: Mapping[Node, int], looks: "_Looks", alphabet: "_Alphabet") -> Iterator[Node]:
    """Lexemes to be split: after one of them, what may follow could also continue itself or another one."""
    for left, after in follow.items():
        for right in follow:
            if alphabet.meet(looks.continued(left, right), after):
                yield right if isinstance(left, Characters) else left
                if not isinstance(left, Characters):
                    break


class _Looks:
    """Automata of lexemes, and how they continue each other, each found out once and in a bounded time."""

    def __init__(self, grammar: _Grammar, alphabet: "_Alphabet") -> None:
        self._grammar = grammar
        self._alphabet = alphabet
        self._automata: dict[Node, _Automaton] = {}
        self._continued: dict[tuple[int, int], int] = {}
        self._steps = 0

    def automaton(self, node: Node) -> "_Automaton":
        if node not in self._automata:
            self._automata[node] = _Automaton(node, self._grammar, self._alphabet)
            self._spend(len(self._automata[node].sets))
        return self._automata[node]

    def continued(self, left: Node, right: Node) -> int:
        """The characters with which `right` goes on from a text that is a whole `left`."""
        one, other = self.automaton(left), self.automaton(right)
        key = (id(one), id(other))
        if key not in self._continued:
            self._continued[key], steps = one.continued_by(other)
            self._spend(steps)
        return self._continued[key]

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise GrammarError(TOO_LARGE)


class _Writer:
    """Writes a grammar in Lark: irregular rules as rules, lexemes and regular rules in them as terminals."""

    def __init__(self, grammar: _Grammar) -> None:
        self._grammar = grammar
        self._terminals: dict[Node, str] = {}
        self._lines: list[str] = []

    def lark(self, parts: Mapping[str, _Part], start: _Part) -> str:
        """The grammar of `parts`, by the names of their rules, and of what a text begins with."""
        names = {name: f"r{i}" for i, name in enumerate(parts)}
        rules = [("start", start), *((names[name], part) for name, part in parts.items())]
        for name, part in rules:
            self._lines.append(f"{name}: {self._rule(part, names)}")
        return "\n".join(self._lines) + "\n"

    def _rule(self, part: _Part, names: Mapping[str, str]) -> str:
        if isinstance(part, _Lexeme):
            return self._terminal(part.node)
        if part.kind == "rule":
            return names[part.name]
        inside = [self._rule(each, names) for each in part.parts]
        if part.kind == "repetition":
            return f"({inside[0]}){_counts(*part.counts)}"
        if part.kind == "choice":
            return f"({' | '.join(inside)})"
        return f"({' '.join(inside)})" if inside else '""'

    def _terminal(self, node: Node) -> str:
        if isinstance(node, Reference):
            node = self._grammar.rules[node.name]
        if node not in self._terminals:
            body = self._body(node)
            self._terminals[node] = f"T{len(self._terminals)}"
            self._lines.append(f"{self._terminals[node]}: {body}")
        return self._terminals[node]

    def _body(self, node: Node) -> str:
        if node == Sequence(()):
            return '""'
        if not any(references(node)):
            return f"/{_regex(node)}/"
        match node:
            case Reference():
                return self._terminal(node)
            case Repetition(item, least, most):
                return f"({self._body(item)}){_counts(least, most)}"
            case Choice(items):
                return f"({' | '.join(self._body(item) for item in items)})"
            case _:
                return f"({' '.join(self._body(item) for item in inner(node))})"


def _regex(node: Node) -> str:
    match node:
        case Characters(((low, high),)) if low == high:
            return literal(chr(low))
        case Characters(ranges):
            return "[" + "".join(rf"\x{{{low:x}}}-\x{{{high:x}}}" for low, high in ranges) + "]"
        case Repetition(item, least, most):
            return f"(?:{_regex(item)}){_counts(least, most)}"
        case Choice(items):
            return f"(?:{'|'.join(_regex(item) for item in items)})"
        case _:
            return "".join(_regex(item) for item in inner(node)) or "(?:)"


def _counts(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


class _Alphabet:
    """The characters of a grammar in classes that it does not tell apart; sets of them are bits of an int."""

    def __init__(self, grammar: _Grammar) -> None:
        stack, cuts = list(grammar.rules.values()), {0}
        while stack:
            node = stack.pop()
            if isinstance(node, Characters):
                cuts |= {point for low, high in node.ranges for point in (low, high + 1)}
            stack.extend(inner(node))
        self._begins = sorted(cuts)
        self._sets: dict[Characters, int] = {}
        # UTF-8 writes characters beyond ASCII in several bytes, of which different ones may share the first.
        self._beyond = sum(1 << i for i, begin in enumerate(self._begins) if self._end(i) > _ASCII)

    def bits(self, characters: Characters) -> int:
        if characters not in self._sets:
            self._sets[characters] = sum(
                1 << i
                for i, begin in enumerate(self._begins)
                if any(low <= begin <= high for low, high in characters.ranges)
            )
        return self._sets[characters]

    def meet(self, left: int, right: int) -> bool:
        """Whether a byte could begin a character of both."""
        return bool(left & right or (left & self._beyond and right & self._beyond))

    def _end(self, i: int) -> int:
        return self._begins[i + 1] - 1 if i + 1 < len(self._begins) else 0x10FFFF


class _Automaton:
    """Glushkov's automaton of a regular part: its positions, the first and last, and what follows each."""

    def __init__(self, node: Node, grammar: _Grammar, alphabet: _Alphabet) -> None:
        self._grammar = grammar
        self._alphabet = alphabet
        self.sets: list[int] = []
        self.next: list[set[int]] = []
        self.first, last, _ = self._build(node)
        self.last = frozenset(last)

    def continued_by(self, other: "_Automaton") -> tuple[int, int]:
        """The characters with which `other` goes on from a text that is whole here; and the steps it took."""
        alike = [sum(1 << q for q, bits in enumerate(other.sets) if bits & mine) for mine in self.sets]
        its_next = [sum(1 << q for q in positions) for positions in other.next]
        begins = sum(1 << q for q in other.first)
        reached = [0] * len(self.sets)
        waiting = [(p, begins & alike[p]) for p in self.first]
        found, steps = 0, len(self.sets) + len(other.sets)
        while waiting:
            mine, new = waiting.pop()
            new &= ~reached[mine]
            if not new:
                continue
            reached[mine] |= new
            after = 0
            for q in _bits(new):
                after |= its_next[q]
            steps += new.bit_count() + len(self.next[mine])
            if mine in self.last:
                found |= after
            waiting += [(p, after & alike[p]) for p in self.next[mine]]
        characters = 0
        for q in _bits(found):
            characters |= other.sets[q]
        return characters, steps

    def _build(self, node: Node) -> tuple[set[int], set[int], bool]:
        match node:
            case Characters():
                self.sets.append(self._alphabet.bits(node))
                self.next.append(set())
                position = {len(self.sets) - 1}
                return position, set(position), False
            case Reference(name):
                return self._build(self._grammar.rules[name])
            case Choice(items):
                built = [self._build(item) for item in items]
                firsts = {position for first, _, _ in built for position in first}
                lasts = {position for _, last, _ in built for position in last}
                return firsts, lasts, any(empty for _, _, empty in built)
            case Sequence(items):
                return self._chain([(item, False) for item in items])
            case Repetition(item, least, most):
                copies = max(least, most or 0, 1)
                first, last, nullable = self._chain(
                    [(item, i >= least and not (i == 0 and most is None)) for i in range(copies)],
                    loops=most is None,
                )
                return first, last, nullable or least == 0

    def _chain(
        self, items: list[tuple[Node, bool]], *, loops: bool = False
    ) -> tuple[set[int], set[int], bool]:
        """One after the other, some of which may be left out; the last may come again where it `loops`."""
        first: set[int] = set()
        last: set[int] = set()
        nullable = True
        for i, (item, optional) in enumerate(items):
            begins, ends, empty = self._build(item)
            empty = empty or optional
            for position in last:
                self.next[position] |= begins
            if loops and i == len(items) - 1:
                for position in ends:
                    self.next[position] |= begins
            first |= begins if nullable else set()
            last = ends | (last if empty else set())
            nullable = nullable and empty
        return first, last, nullable


def _bits(number: int) -> Iterator[int]:
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


class _Following:
    """Which characters may come after each lexeme.

    Attributes:
        of_lexemes: as sets of the alphabet, by the lexemes' nodes.
    """

    def __init__(self, parts: Mapping[str, _Part], grammar: _Grammar, looks: _Looks) -> None:
        self._looks = looks
        self._firsts = dict.fromkeys(parts, 0)
        self._nullable = {name for name in parts if grammar.nullable(grammar.rules[name])}
        self._follows = dict.fromkeys(parts, 0)
        self._lexeme_firsts: dict[Node, int] = {}
        self.of_lexemes: dict[Node, int] = {}
        while (firsts := {name: self._first(part)[0] for name, part in parts.items()}) != self._firsts:
            self._firsts = firsts
        before: dict[str, int] = {}
        while before != self._follows:
            before = dict(self._follows)
            for name, part in parts.items():
                self._pass(part, self._follows[name])

    def _first(self, part: _Part) -> tuple[int, bool]:
        """The characters that a part begins with, and whether it may be empty."""
        if isinstance(part, _Lexeme):
            if part.node not in self._lexeme_firsts:
                automaton = self._looks.automaton(part.node)
                bits = 0
                for position in automaton.first:
                    bits |= automaton.sets[position]
                self._lexeme_firsts[part.node] = bits
            return self._lexeme_firsts[part.node], False
        if part.kind == "rule":
            return self._firsts[part.name], part.name in self._nullable
        firsts, empties = 0, [self._first(inside) for inside in part.parts]
        if part.kind == "sequence":
            for bits, empty in empties:
                firsts |= bits
                if not empty:
                    return firsts, False
            return firsts, True
        for bits, _ in empties:
            firsts |= bits
        if part.kind == "choice":
            return firsts, any(empty for _, empty in empties)
        return firsts, part.counts[0] == 0 or empties[0][1]

    def _pass(self, part: _Part, after: int) -> None:
        """Notes what comes after everything in a part that is followed by `after`."""
        if isinstance(part, _Lexeme):
            self.of_lexemes[part.node] = self.of_lexemes.get(part.node, 0) | after
        elif part.kind == "rule":
            self._follows[part.name] |= after
        elif part.kind == "sequence":
            for inside in reversed(part.parts):
                self._pass(inside, after)
                bits, empty = self._first(inside)
                after = bits | (after if empty else 0)
        elif part.kind == "choice":
            for inside in part.parts:
                self._pass(inside, after)
        else:
            again = self._first(part.parts[0])[0] if part.counts[1] != 1 else 0
            self._pass(part.parts[0], after | again)
