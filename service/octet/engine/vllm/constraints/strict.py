"""What an answer is held to in which the model may call strict tools, and may write anything else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.lexemes import literal
from octet.translate.strict_calls import ARGUMENT_HEADS, NAME_CHARACTERS, NAME_HEAD

# A name begins behind a character of another kind, or at the beginning.
_BEFORE_FUNCTION = rf"(?s:(?:.*[^{NAME_CHARACTERS}])?)"


def of_strict_calls(
    spellings: Mapping[str, str],
    schemas: Mapping[str, Mapping[str, Any]],
    functions: Mapping[str, Sequence[str]],
    separators: tuple[str, str],
) -> str:
    """Any text in which the arguments of strict tools satisfy their schemas wherever they are held.

    `octet.translate.strict_calls.HeldArguments` tells where in such a text that is. A name in an object is
    read to its closing quote, so that no text can pass for a strict tool's name and go on.

    Args:
        spellings: how strict tools are called, and the names that this means.
        schemas: the enforceable schemas of their arguments, by these names.
        functions: of those that are held in Python's form, too, the arguments in order, by their names.
        separators: what stands between items of JSON, and between a name and its value.
    """
    writer = _Writer()
    for name, schema in schemas.items():
        writer.add([spelling for spelling, meant in spellings.items() if meant == name], schema)
        if name in functions:
            writer.add_function(functions[name])
    return grammars.of_several(writer.lark(), writer.schemas, separators=separators)


class _Writer:
    """Writes the grammar in Lark, tool by tool.

    Attributes:
        schemas: those that it names.
    """

    def __init__(self) -> None:
        self.schemas: dict[str, Mapping[str, Any]] = {}
        self._names: list[str] = []
        self._calls: list[str] = []
        self._functions: list[str] = []
        self._lines: list[str] = []
        self._tool = ""
        self._spellings = ""
        self._schema: Mapping[str, Any] = {}

    def add(self, spellings: Sequence[str], schema: Mapping[str, Any]) -> None:
        """Adds the next tool, called so, with the schema of its arguments."""
        self._tool = tool = f"tool{len(self._calls)}"
        self._spellings, self._schema = _any_of(spellings), schema
        self._names += spellings
        self._calls.append(tool)
        self.schemas[f"{tool}_arguments"] = schema
        self._lines.append(f'{tool}: {tool.upper()} @{tool}_arguments "}}"')
        self._lines.append(f"{tool.upper()}: /{self._spellings}{_any_of(ARGUMENT_HEADS)}/")

    def add_function(self, keywords: Sequence[str]) -> None:
        """Adds Python's form of the tool's calls, with arguments by keyword: what is required, in order."""
        tool, required = self._tool, set(self._schema.get("required", ()))
        firsts: list[str] = []
        followers: list[str] = []
        for i, keyword in enumerate(keywords):
            schema = self._schema["properties"][keyword]
            self.schemas[f"{tool}_{i}"] = {"allOf": [schema]}
            argument, after = f'{keyword}=" @{tool}_{i}', f"{tool}_after{i}"
            if required.isdisjoint(keywords[:i]):
                firsts.append(f'"{argument} {after}')
            followers.append(f'(", {argument}){"" if keyword in required else "?"} {after}')
        for i, follower in enumerate([*followers[1:], '""'][: len(followers)]):
            self._lines.append(f"{tool}_after{i}: {follower}")
        arguments = f"({' | '.join(firsts)}){'' if required else '?'}" if firsts else ""
        self._functions.append(f"{tool}_function")
        self._lines.append(f'{tool}_function: {tool}_head {arguments} ")"')
        self._lines.append(rf"{tool}_head[lazy]: /{_BEFORE_FUNCTION}{self._spellings}\(/")

    def lark(self) -> str:
        """The grammar."""
        held = " | ".join(("head (call | OTHER_NAME)", *self._functions))
        frame = (
            f"start: ({held})* (REST | head BEGUN_NAME?)?",
            f"call: {' | '.join(self._calls)}",
            f"head[lazy]: /(?s:.*){NAME_HEAD}/",
            f'OTHER_NAME: /[^"]*"/ & ~/{_any_of(self._names)}"/',
            'BEGUN_NAME: /[^"]+/',
            # Where a lazy lexeme can end, it does: this holds no head.
            "REST: /(?s:.+)/",
        )
        return "\n".join((*frame, *self._lines))


def _any_of(texts: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(literal, texts))})"
