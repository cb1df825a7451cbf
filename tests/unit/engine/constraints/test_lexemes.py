"""Grammars in EBNF: what they derive as Lark, and what is wrong with others, with the place."""

import itertools
import random

import pytest

from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.ebnf import (
    Characters,
    Choice,
    GrammarError,
    Node,
    Reference,
    Repetition,
    Sequence,
    parse,
)
from octet.engine.vllm.constraints.lexemes import to_lark
from octet.engine.vllm.constraints.walk import Walk

JSON = r"""
# The grammar that comes with many servers.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


def derives(grammar: str, text: str) -> bool:
    walk = Walk(grammars.of_lark(to_lark(grammar)))
    assert walk.error == ""
    return walk.takes(text)


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= ("yes" | "no") " " [0-9]', "yes 1", "yes"),
        ('root ::= [a-z]* "x"', "abxcx", "abc"),
        ('root ::= "(" root ")" | [a-z]* "x"', "((abxx))", "((abc))"),
        ('root ::= "<" root ">" | ("a" | "ab") "bc"', "<abc>", "<ab>"),
        ('root ::= "<" root ">" | ("a" | "ab") "bc"', "abbc", "abb"),
        ('root ::= e "#"\ne ::= e e e | e e | [a-z ]', "ab c#", "#"),
        ('root ::= ""', "", "a"),
        ('root ::= "a"? "b"{2,3} [^c]+', "bbbé", "bbc"),
        ('root ::= a "é"\na ::= "(" a ")" | "è"*', "(è)é", "è"),
        ('root ::= .* # any line\n', "a é", "a\nb"),
        ('root ::= [\\]\\-\\^\\u00e9\\n] "\\x41\\U0001F600\\""', ']A😀"', "aA"),
        ("root ::= a-b.c | d_1\na-b.c ::= \"x\"\nd_1\n  ::= \"y\"\n   | \"z\"", "z", "w"),
        (JSON, '{"a": [1, -2.5e3, "x\\n\\u00e9", {"b": null}]}', "[1]"),
        (JSON, "{}", '{"a": }'),
    ],
)  # fmt: skip
def test_what_a_grammar_derives(grammar: str, good: str, bad: str) -> None:
    assert derives(grammar, good)
    assert not derives(grammar, bad)


@pytest.mark.parametrize(
    ("grammar", "place", "sentence"),
    [
        ("", "line 1, column 1", 'no rule named "root"'),
        ('x ::= "a"', "line 1, column 1", 'no rule named "root"'),
        ("no grammar", "line 1, column 1", 'name ::= "text"'),
        ('start: "a"', "line 1, column 1", 'name ::= "text"'),
        ("root ::= missing", "line 1, column 10", "there is no rule named missing"),
        ('root ::= "a" b\nb ::= "c" gone', "line 2, column 11", "there is no rule named gone"),
        ("root ::= root", "line 1, column 1", "never comes to an end"),
        ('root ::= "a" | b\nb ::= "x" b', "line 2, column 1", "the rule b never comes to an end"),
        ('root ::= "a', "line 1, column 10", "literal is not closed"),
        ("root ::= [a", "line 1, column 10", "class is not closed"),
        ("root ::= []", "line 1, column 10", "holds no character"),
        ("root ::= [z-a]", "line 1, column 10", "ends before it begins"),
        ('root ::= ("a"', "line 1, column 10", "group is not closed"),
        ('root ::= "a" )', "line 1, column 14", "is not the beginning of a rule"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 1", "a second time"),
        ('root ::= "a"{3,1}', "line 1, column 13", "at least 3 and at most 1"),
        ('root ::= "a"{1000000}', "line 1, column 13", "more than 10000 times"),
        ('root ::= "a"{x}', "line 1, column 13", "{2,5}"),
        ('root ::= "a"**', "line 1, column 14", "not expected here"),
        ('root ::= "\\q"', "line 1, column 11", "is no escape"),
        ('root ::= "\\ud800"', "line 1, column 11", "is no escape"),
        ("root ::= /a/", "line 1, column 10", "output_format.regex"),
        ("root ::= 'a'", "line 1, column 10", "double quotes"),
        ('root ::= "a" (= "b")', "line 1, column 14", "look-ahead is not served"),
        ('root ::= TagDispatch(("a", b))\nb ::= "x"', "line 1, column 10", "tags are not served"),
        ('root ::= "a";', "line 1, column 13", "leave the ; out"),
        ('root ::= "a", "b"', "line 1, column 13", "without a comma"),
        ("root ::= <a>", "line 1, column 10", "without < and >"),
        ("root ::= " + "(" * 70 + '"a"' + ")" * 70, "line 1, column 75", "more than 64 deep"),
        ("\n".join(f"r{i} ::= \"a\"" for i in range(1001)), "line 1001, column 1", "more than 1000 rules"),
    ],
)  # fmt: skip
def test_what_is_no_grammar(grammar: str, place: str, sentence: str) -> None:
    with pytest.raises(GrammarError) as caught:
        to_lark(grammar)
    assert str(caught.value).startswith(f"{place}: ")
    assert sentence in str(caught.value)


def test_a_grammar_whose_rules_are_too_deep_in_each_other() -> None:
    chain = "\n".join(f"a{i} ::= a{i + 1}" for i in range(990))
    with pytest.raises(GrammarError, match="too large"):
        to_lark(f'root ::= root "y" | a0\n{chain}\na990 ::= "x"')


def test_rules_that_double_each_other_stay_small() -> None:
    rules = "\n".join(f"a{i} ::= a{i + 1} a{i + 1}" for i in range(60))
    assert len(to_lark(f'root ::= a0 | root "z"\n{rules}\na60 ::= "x"')) < 2000


class Texts:
    """What a grammar derives up to a length, found out by putting pieces together."""

    def __init__(self, grammar: str, most: int) -> None:
        self.rules, self.most = parse(grammar), most
        self.known: dict[str, set[str]] = {name: set() for name in self.rules}
        while (new := {name: self.of(node) for name, node in self.rules.items()}) != self.known:
            self.known = new

    def of(self, node: Node) -> set[str]:
        match node:
            case Characters(ranges):
                return {chr(point) for low, high in ranges for point in range(low, min(high, low + 30) + 1)}
            case Reference(name):
                return self.known[name]
            case Choice(items):
                return set().union(*(self.of(item) for item in items))
            case Sequence(items):
                texts = {""}
                for item in items:
                    texts = self.joined(texts, self.of(item))
                return texts
            case Repetition(item, least, most):
                inside, found, texts = self.of(item), set(), {""}
                for count in range((self.most if most is None else most) + 1):
                    found |= texts if count >= least else set()
                    texts = self.joined(texts, inside)
                return found

    def joined(self, left: set[str], right: set[str]) -> set[str]:
        return {one + other for one in left for other in right if len(one + other) <= self.most}


def random_grammar(rng: random.Random) -> str:
    def part(depth: int) -> str:
        kind = rng.random()
        if depth == 0 or kind < 0.45:
            return rng.choice(['"a"', '"b"', '"ab"', '"ba"', "[ab]", '"c"', '""', "root", "x", "y"])
        if kind < 0.65:
            return f"({part(depth - 1)} | {part(depth - 1)})"
        if kind < 0.85:
            return f"{part(depth - 1)} {part(depth - 1)}"
        return f"({part(depth - 1)}){rng.choice(['*', '+', '?', '{1,2}'])}"

    return f'root ::= {part(3)} | {part(2)}\nx ::= {part(2)} | "c"\ny ::= {part(2)} | "a"'


@pytest.mark.parametrize("part", range(4))
def test_lexemes_leave_the_language_as_it_is(part: int) -> None:
    looked_at = 0
    for seed in range(part * 40, part * 40 + 40):
        grammar = random_grammar(random.Random(seed))
        try:
            lark = grammars.of_lark(to_lark(grammar))
        except GrammarError:
            continue
        texts = Texts(grammar, 4).of(Reference("root"))
        for letters in itertools.chain.from_iterable(itertools.product("abc", repeat=n) for n in range(5)):
            text = "".join(letters)
            walk = Walk(lark)
            assert walk.error == "", (grammar, walk.error)
            assert walk.takes(text) is (text in texts), (seed, grammar, lark, text)
            looked_at += 1
    assert looked_at > 1000
