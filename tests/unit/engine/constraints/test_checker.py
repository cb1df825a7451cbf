"""Constraints are compiled once, in a process that is replaced when one ends it."""

import errno
from collections.abc import Iterator

import pytest

from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.checker import BEGUN, Checker
from octet.engine.vllm.constraints.reasons import explain, regex_problem
from octet.errors import UnavailableError


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close()


def schema(of: dict[str, object]) -> str:
    return grammars.of_schema(of, separators=(",", ":"), white_space=False)


INTEGER = {"type": "integer"}


def strings(count: int) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {
            f"s{i}": {"type": "string", "minLength": 1000 + i, "maxLength": 100_000} for i in range(count)
        },
        "required": [f"s{i}" for i in range(count)],
    }


@pytest.mark.parametrize(
    ("constraint", "sentence"),
    [
        (grammars.of_regex("(?i)yes"), ""),
        (grammars.of_regex(r"\p{L}{2}"), ""),
        (grammars.of_regex(r"\d{3}-[x-z]{1,3}"), ""),
        (grammars.of_choice(["a", "ab", "/", "\n", "é", '"', "a\\"]), ""),
        (grammars.of_choice([f"{i:03d}" + "x" * 997 for i in range(1000)]), ""),
        (grammars.of_ebnf('root ::= "a" root | "b"'), ""),
        (schema({"type": "object"}), ""),
        (schema({"enum": ["x"]}), ""),
        (grammars.of_regex("(unclosed"), "unclosed group"),
        (grammars.of_regex("a(?=b)"), "look-around"),
        (grammars.of_regex(r"(a)\1"), "backreferences"),
        (grammars.of_regex("a^b"), "^ and $"),
        (grammars.of_ebnf("root ::= root"), "line 1, column 1: the rule root never comes to an end"),
        (schema({"$ref": "#"}), "nothing satisfies it"),
        (schema({"type": "integer", "minimum": 3, "maximum": 2}), "nothing satisfies it"),
        # What takes too much.
        (grammars.of_regex("(.*)*" * 1600), "takes more time or memory"),
        (grammars.of_regex(".*" * 4000), "takes more time or memory"),
        (grammars.of_ebnf("root ::= " + "[^a]* [^b]* " * 4000), "takes"),
        (schema({"type": "string", "allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(1, 30)]}), "takes"),
        (schema({"properties": {f"{i}": {**INTEGER, "minimum": -1e18} for i in range(1300)}}), "takes"),
        # And afterwards all is as it was.
        (schema({"type": "object", "title": "afterwards"}), ""),
    ],
)  # fmt: skip
def test_verdicts(checker: Checker, constraint: str, sentence: str) -> None:
    problem, form = checker.check_now(constraint)
    if sentence:
        assert sentence in explain(problem)
    else:
        assert problem == ""
        assert form == constraint or "ebnf" in constraint
    assert checker.check_now(constraint) == (problem, form)


@pytest.mark.parametrize(
    ("constraint", "begun", "begins"),
    [
        (grammars.of_choice(["yes", "no"]), "", True),
        (grammars.of_choice(["yes", "no"]), "ye", True),
        (grammars.of_choice(["yes", "no"]), "yes", True),
        (grammars.of_choice(["yes", "no"]), "yess", False),
        (grammars.of_choice(["é"]), "é", True),
        (grammars.of_ebnf('root ::= "a" root | "b"'), "aa", True),
        (grammars.of_ebnf('root ::= "a" root | "b"'), "c", False),
        (schema({"type": "object"}), '{"begun": ', False),
        (schema({"type": "object"}), '{"begun":"', True),
        (schema({"type": "object", "properties": {"begun": {"type": "null"}}}), '{"begun":n', True),
        (schema({"type": "object"}), " {", False),
        (grammars.of_regex("(unclosed"), "a", None),
    ],
)
def test_what_an_answer_goes_on_with(
    checker: Checker, constraint: str, begun: str, begins: bool | None
) -> None:
    problem, form = checker.check_now(grammars.begun_with(constraint, begun))
    if begins:
        assert problem == ""
        _, said = grammars.split_begun(form)
        assert said == begun
    else:
        assert (problem == BEGUN) == (begins is False)
    # Nothing that is remembered of it says anything of the constraint alone.
    assert (checker.check_now(constraint)[0] == "") == (begins is not None)


async def test_what_is_known_is_said_at_once(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = schema(strings(3))
    first = await checker.check(constraint)
    monkeypatch.setattr(checker, "_compile", None)
    assert await checker.check(constraint) == first == ("", constraint)


def test_a_process_that_was_killed_is_replaced() -> None:
    checker = Checker()
    try:
        assert checker.check_now(schema({"type": "null"})) == ("", schema({"type": "null"}))
        assert checker._worker is not None
        checker._worker.kill()
        checker._worker.wait()
        assert checker.check_now(schema({"type": "object"}))[0] == ""
        assert checker.check_now(grammars.of_regex("(.*)*" * 1600))[0]
        assert checker.check_now(schema({"type": "array"}))[0] == ""
    finally:
        checker.close()


@pytest.mark.parametrize(
    ("regex", "wrong"), [("a\0b", True), ("\\", True), ("a\\\\\\", True), ("a\\\\", False), ("a", False)]
)
def test_what_would_be_read_as_another_expression(regex: str, wrong: bool) -> None:
    assert bool(regex_problem(regex)) is wrong


def test_without_a_process_nothing_is_known_of_a_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where all descriptors are taken; it is compiled when there are some again."""
    checker = Checker()
    integer = schema(INTEGER)

    def start() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(checker, "_start", start)
        with pytest.raises(UnavailableError, match="try again"):
            checker.check_now(integer)
    assert checker.check_now(integer) == ("", integer)
    checker.close()
