"""What an answer is held to in which the model may call strict tools, and may write anything else."""

from collections.abc import Iterable, Mapping
from typing import Any

from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.lexemes import literal
from octet.translate.strict_calls import ARGUMENT_HEADS, NAME_HEAD


def of_strict_calls(
    spellings: Mapping[str, str], schemas: Mapping[str, Mapping[str, Any]], separators: tuple[str, str]
) -> str:
    """Any text in which the arguments of strict tools satisfy their schemas wherever they are held.

    `octet.translate.strict_calls.HeldArguments` tells where in such a text that is. A name is read to its
    closing quote, so that no text can pass for a strict tool's name and go on.

    Args:
        spellings: how strict tools are called, and the names that this means.
        schemas: the enforceable schemas of their arguments, by these names.
        separators: what stands between items of JSON, and between a name and its value.
    """
    places = {name: f"tool{i}" for i, name in enumerate(schemas)}
    lines = [
        "start: (head (call | OTHER_NAME))* (REST | head BEGUN_NAME?)?",
        f"call: {' | '.join(places.values())}",
        f"head[lazy]: /(?s:.*){NAME_HEAD}/",
        f'OTHER_NAME: /[^"]*"/ & ~/{_any_of(spellings)}"/',
        'BEGUN_NAME: /[^"]+/',
        # Where a lazy lexeme can end, it does: this holds no head.
        "REST: /(?s:.+)/",
    ]
    for name, place in places.items():
        called = _any_of(spelling for spelling, meant in spellings.items() if meant == name)
        lines.append(f'{place}: {place.upper()} @{place}_arguments "}}"')
        lines.append(f"{place.upper()}: /{called}{_any_of(ARGUMENT_HEADS)}/")
    arguments = {f"{place}_arguments": schemas[name] for name, place in places.items()}
    return grammars.of_several("\n".join(lines), arguments, separators=separators)


def _any_of(texts: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(literal, texts))})"
