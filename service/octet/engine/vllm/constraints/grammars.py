"""Constraints of requests in llguidance's own form."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from octet.engine.vllm.constraints.lexemes import literal, to_lark

_EBNF = "ebnf"
_APART = "apart"
_BEGUN = "begun"

MARK = "octet's\n"
"""What a constraint begins with that Octet's front end has checked, on its way to the engine core."""

ALTERNATIVE = "\n"
"""What stands between constraints of which an answer has to satisfy any."""


def of_schema(schema: Mapping[str, Any], *, separators: tuple[str, str], white_space: bool) -> str:
    """JSON that satisfies an enforceable schema.

    Args:
        schema: the schema.
        separators: what stands between items, and between a name and its value.
        white_space: whether any white space may stand around these as well.
    """
    return _grammar(_schema_form(schema, separators, white_space=white_space))


def of_regex(regex: str, *, not_beginning: str = "") -> str:
    """Text that a regular expression matches as a whole; without what begins with a text, if one is given."""
    from llguidance import LLMatcher

    grammar = str(LLMatcher.grammar_from_regex(regex))
    if not not_beginning:
        return grammar
    [form] = json.loads(grammar)["grammars"]
    expression = form["lark_grammar"].removeprefix("start: ")
    return of_lark(f"start: TEXT\nTEXT: {expression} & ~/{literal(not_beginning)}(?s:.*)/")


def of_choice(choices: Sequence[str]) -> str:
    """One of these texts."""
    return of_lark("start: " + " | ".join(f"/{literal(choice)}/" for choice in dict.fromkeys(choices)))


def of_lark(lark: str) -> str:
    """Text that a grammar in llguidance's dialect of Lark derives."""
    return _grammar({"lark_grammar": lark})


def of_ebnf(ebnf: str) -> str:
    """Text that a grammar in EBNF derives; not yet llguidance's own form, which `ready` gives."""
    return json.dumps({_EBNF: ebnf})


def of_several(lark: str, schemas: Mapping[str, Mapping[str, Any]], *, separators: tuple[str, str]) -> str:
    """Text that a grammar in Lark derives, in which `@NAME` stands for JSON that satisfies a schema.

    Args:
        lark: the grammar.
        schemas: the enforceable schemas, by their names.
        separators: as `of_schema` takes them.
    """
    inner = [{"name": name, **_schema_form(schema, separators)} for name, schema in schemas.items()]
    return json.dumps({"grammars": [{"name": "start", "lark_grammar": lark}, *inner]})


def apart(grammar: str, beginning: str) -> str:
    """The same constraint, which is refused if it derives texts that begin with another."""
    return json.dumps({**json.loads(grammar), _APART: beginning})


def begun_with(grammar: str, text: str) -> str:
    """A constraint that holds for a text whose beginning is written already; `split_begun` tells the two."""
    return json.dumps({**json.loads(grammar), _BEGUN: text}) if text else grammar


def split_begun(grammar: str) -> tuple[str, str]:
    """A constraint, and the beginning of the text."""
    # Most have none, and some are long.
    if not grammar.endswith('"}') or f'"{_BEGUN}": ' not in grammar:
        return grammar, ""
    form = json.loads(grammar)
    begun = form.pop(_BEGUN, "")
    return (json.dumps(form), begun) if begun else (grammar, "")


def ready(grammar: str) -> tuple[str, str]:
    """A constraint as llguidance takes it, and what its texts must not begin with, if anything.

    May take long for a grammar in EBNF.

    Raises:
        GrammarError: when it is no such grammar.
    """
    form = json.loads(grammar)
    beginning = form.pop(_APART, "")
    if _EBNF in form:
        return of_lark(to_lark(form[_EBNF])), beginning
    return json.dumps(form) if beginning else grammar, beginning


def _schema_form(
    schema: Mapping[str, Any], separators: tuple[str, str], *, white_space: bool = False
) -> dict[str, Any]:
    item, key = separators
    options = {"item_separator": item, "key_separator": key, "whitespace_flexible": white_space}
    return {"json_schema": {**schema, "x-guidance": options}}


def _grammar(form: Mapping[str, Any]) -> str:
    return json.dumps({"grammars": [form]})
