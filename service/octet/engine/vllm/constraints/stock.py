"""Constraints as vLLM's own parameters carry them: those of gateways."""

import json
from typing import Any

from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.reasons import regex_problem
from octet.engine.vllm.constraints.schema import NotEnforceableError, to_enforceable
from octet.errors import InvalidRequestError
from octet.translate.output_format import MAX_GRAMMAR_LENGTH, MAX_REGEX_LENGTH
from octet.translate.schemas import SchemaReader


def to_grammar(wanted: Any) -> str:
    """A constraint of vLLM's StructuredOutputsParams, as `octet.engine.vllm.constraints.grammars` gives it.

    Raises:
        ValueError: with a sentence, for one that cannot be enforced.
    """
    if wanted.json is not None:
        return _schema(wanted.json if isinstance(wanted.json, str) else json.dumps(wanted.json))
    if wanted.json_object:
        return _schema('{"type": "object"}')
    for text, most in ((wanted.regex, MAX_REGEX_LENGTH), (wanted.grammar, MAX_GRAMMAR_LENGTH)):
        if text is not None and not 1 <= len(text) <= most:
            raise ValueError(f"has {len(text)} characters, not 1 to {most}")
    if wanted.regex is not None:
        if problem := regex_problem(wanted.regex):
            raise ValueError(problem)
        return grammars.of_regex(wanted.regex)
    if wanted.choice:
        return grammars.of_choice(wanted.choice)
    if wanted.grammar is not None:
        return grammars.of_ebnf(wanted.grammar)
    raise ValueError("holds the answer to nothing that is served here")


def _schema(text: str) -> str:
    try:
        enforceable = to_enforceable(SchemaReader().read_text(text, "json_schema"))
    except (InvalidRequestError, NotEnforceableError) as error:
        raise ValueError(str(error)) from error
    if enforceable.unique:
        raise ValueError("uniqueItems cannot be enforced while the answer is written; leave it out")
    return grammars.of_schema(enforceable.schema, separators=(",", ":"), white_space=False)
