"""Constraints of requests in llguidance's own form."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from octet.engine.vllm.constraints.lexemes import literal, to_lark

_EBNF = "ebnf"
_BEGUN = "begun"

MARK = "octet's\n"
"""What a constraint begins with that Octet's front end has checked, on its way to the engine core."""


def of_schema(schema: Mapping[str, Any], *, separators: tuple[str, str], white_space: bool) -> str:
    """JSON that satisfies an enforceable schema.

    Args:
        schema: the schema.
        separators: what stands between items, and between a name and its value.
        white_space: whether any white space may stand around these as well.
    """
    item, key = separators
    options = {"item_separator": item, "key_separator": key, "whitespace_flexible": white_space}
    return _grammar({"json_schema": {**schema, "x-guidance": options}})


def of_regex(regex: str) -> str:
    """Text that a regular expression matches as a whole."""
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_regex(regex))


def of_choice(choices: Sequence[str]) -> str:
    """One of these texts."""
    return of_lark("start: " + " | ".join(f"/{literal(choice)}/" for choice in dict.fromkeys(choices)))


def of_lark(lark: str) -> str:
    """Text that a grammar in llguidance's dialect of Lark derives."""
    return _grammar({"lark_grammar": lark})


def of_ebnf(ebnf: str) -> str:
    """Text that a grammar in EBNF derives; not yet llguidance's own form, which `ready` gives."""
    return json.dumps({_EBNF: ebnf})


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


def ready(grammar: str) -> str:
    """A constraint as llguidance takes it; may take long for a grammar in EBNF.

    Raises:
        GrammarError: when it is no such grammar.
    """
    form = json.loads(grammar)
    return of_lark(to_lark(form[_EBNF])) if _EBNF in form else grammar


def _grammar(form: Mapping[str, Any]) -> str:
    return json.dumps({"grammars": [form]})
