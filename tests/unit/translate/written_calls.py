"""Calls as models write them: strategies that draw what is meant together with how it is written."""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st

# Tools, and what their arguments are called, in order.
TOOLS = {
    "get_weather": ("city", "unit", "days"),
    "get": (),
    "f": ("a", "b", "c"),
    "db.query": ("text", "from"),
    "send-mail": ("to", "cc", "body"),
    "3d-print": ("model",),
}
KEYWORDS = ("a", "text", "from", "class", "import", "lambda", "größe", "x1", "_k", "max-results")

CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from("\"'\\\n\t()[]{},:=#;`<>/ ab")
TEXTS = st.text(CHARACTERS, max_size=12) | st.sampled_from(
    ["", "it's", 'say "so"', "'''", '"""', "\\d+", "```", "</tool_call>", "f(a=1)", "], {", "#", "\\", "日本"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@dataclass(frozen=True)
class Written:
    """Calls, as (name, arguments), and their text."""

    calls: list[tuple[str, dict[str, Any]]]
    text: str


Draw = Callable[[st.SearchStrategy[Any]], Any]
# How something is written; what is written is drawn by itself, so that failing cases become small.
CHANCES = st.integers(0, 2**32 - 1).map(Random)


def pick(chance: Random, *options: Any) -> Any:
    return chance.choice(options)


def python_string(chance: Random, text: str) -> str:
    """A literal of a string: any quotes, any escapes that mean the same."""
    quote = pick(chance, '"', "'", '"""', "'''")
    if pick(chance, False, True) and "\\" not in text and quote[0] not in text and "\n" not in text:
        return pick(chance, "r", "R") + quote + text + quote
    escapes = {"\\": "\\\\", "\r": "\\r", "\0": "\\0"}
    if len(quote) == 1 or pick(chance, False, True):
        escapes["\n"] = "\\n"
    written = ""
    for char in text:
        name = unicodedata.name(char, "")
        ways = [escapes.get(char, char), f"\\U{ord(char):08x}"]
        if ord(char) < 256:
            ways.append(f"\\x{ord(char):02x}")
        if name and "<" not in name:
            ways.append(f"\\N{{{name}}}")
        usual = escapes.get(char, char)
        written += "\\" + char if char == quote[0] else pick(chance, usual, usual, usual, *ways)
    # A NUL behind which a digit stands would be another character.
    written = written.replace("\\0", "\\x00") if "\\0" in written and "\\\\0" not in written else written
    pieces = pick(chance, 1, 1, 2)
    if pieces == 2 and "\\" not in written:
        half = len(written) // 2
        return f"{quote}{written[:half]}{quote} {quote}{written[half:]}{quote}"
    return quote + written + quote


def python_number(chance: Random, number: int | float) -> str:
    ways = [repr(number)]
    if isinstance(number, int):
        ways += [f"{number:_}", hex(number)]
        if number > 0:
            ways.append(f"+{number}")
    else:
        ways.append(f"{number!r}".replace("e", "E"))
        if repr(number).endswith(".0"):
            ways.append(repr(number)[:-1])
    return str(pick(chance, *ways))


def gap(chance: Random) -> str:
    """White space between a Python call's brackets."""
    return str(pick(chance, "", "", "", " ", "\n  ", " # it's (\n"))


def bracketed(chance: Random, opening: str, items: list[str], closing: str, space: str = "") -> str:
    comma = pick(chance, "", ",") if items else ""
    return opening + space + f", {space}".join(items) + comma + space + closing


def python_value(chance: Random, value: Any) -> str:
    match value:
        case None | bool():
            return str(pick(chance, repr(value), json.dumps(value)))
        case int() | float():
            return python_number(chance, value)
        case str():
            return python_string(chance, value)
        case list():
            items = [python_value(chance, item) for item in value]
            if len(items) > 1 and pick(chance, False, True):
                return bracketed(chance, "(", items, ")", gap(chance))
            return bracketed(chance, "[", items, "]", gap(chance))
        case dict():
            items = [f"{python_value(chance, k)}: {python_value(chance, v)}" for k, v in value.items()]
            return bracketed(chance, "{", items, "}", gap(chance))
    raise AssertionError(value)


def loose_string(chance: Random, text: str) -> str:
    """A string as dicts have it when they are printed, or JSON as it is written by hand."""
    if pick(chance, False, True):
        return json.dumps(text, ensure_ascii=pick(chance, False, True))
    return repr(text)


def loose_value(chance: Random, value: Any) -> str:
    """JSON, a printed dict, or a mixture of both."""
    match value:
        case None | bool():
            return str(pick(chance, repr(value), json.dumps(value)))
        case int() | float():
            return repr(value)
        case str():
            return loose_string(chance, value)
        case list():
            return bracketed(chance, "[", [loose_value(chance, item) for item in value], "]")
        case dict():
            items = [f"{loose_string(chance, k)}: {loose_value(chance, v)}" for k, v in value.items()]
            return bracketed(chance, "{", items, "}")
    raise AssertionError(value)


@st.composite
def python_calls(draw: Draw) -> Written:
    """A Python call: keywords that Python keeps for itself, arguments by place, modules before the name."""
    chance = draw(CHANCES)
    name = draw(st.sampled_from(sorted(TOOLS)))
    placed = {key: draw(VALUES) for key in TOOLS[name][: draw(st.integers(0, 2))]}
    keywords = [
        k for k in draw(st.lists(st.sampled_from(KEYWORDS), unique=True, max_size=2)) if k not in placed
    ]
    named = {key: draw(VALUES) for key in keywords}
    written = [python_value(chance, value) for value in placed.values()]
    written += [
        f"{key}{pick(chance, '=', ' = ')}{python_value(chance, value)}" for key, value in named.items()
    ]
    prefix = pick(chance, "", "", "default_api.", "functions.", "tools.")
    return Written([(name, placed | named)], bracketed(chance, f"{prefix}{name}(", written, ")", gap(chance)))


@st.composite
def statements(draw: Draw) -> Written:
    """A statement that makes a call, or several."""
    chance = draw(CHANCES)
    calls = draw(st.lists(python_calls(), min_size=1, max_size=2))
    made = [call for written in calls for call in written.calls]
    texts = [written.text for written in calls]
    target = pick(chance, "r = ", "weather=", "result_1 = ", "weatherData = ", "_ = ")
    form = pick(chance, "call", "await", "print", "assigned", "assigned list", "joined")
    if form == "print":
        return Written(made, f"print({', '.join(texts)})")
    if form == "assigned list":
        return Written(made, f"{target}[{', '.join(texts)}]")
    if form == "joined":
        return Written(made, pick(chance, "; ", ";", ", ").join(texts) + pick(chance, "", ";"))
    prefix = {"call": "", "await": "await ", "assigned": target}[form]
    return Written(calls[0].calls, prefix + texts[0])


@st.composite
def objects(draw: Draw) -> Written:
    """A JSON object or a Python dict that is a call, with its members in any order."""
    chance = draw(CHANCES)
    name = draw(st.sampled_from(sorted(TOOLS)))
    arguments = draw(st.dictionaries(TEXTS, VALUES, max_size=3))
    quote = pick(chance, '"', "'")
    form = pick(chance, "plain", "plain", "text", "none", "name only")
    written = loose_value(chance, arguments)
    if form == "text":
        written = json.dumps(loose_value(chance, arguments))
    elif form == "none":
        arguments, written = {}, str(pick(chance, "null", "None", '""'))
    key = pick(chance, "arguments", "parameters", "args", "input")
    members = [f'"name": "{name}"', f'"{key}": {written}']
    nested = pick(chance, False, False, True)
    if form == "name only":
        arguments, members = {}, members[:1]
    elif not nested:
        members[0] = f'"{pick(chance, "name", "function", "tool", "tool_name")}": "{name}"'
    others = [f'"id": "call_{draw(st.integers(0, 99))}"', '"type": "function"', '"index": 0']
    if nested:
        inner = bracketed(chance, "{", draw(st.permutations(members)), "}")
        members = [f'"function": {inner}', *draw(st.lists(st.sampled_from(others), unique=True, max_size=2))]
    elif form != "name only":
        members += draw(st.lists(st.sampled_from(others), unique=True, max_size=2))
    members = draw(st.permutations(members))
    space = pick(chance, "", " ", "\n  ")
    text = bracketed(chance, "{", list(members), "}", space)
    if quote == "'":
        for word in (*TOOLS, "name", "function", "arguments", "parameters", "id", "type"):
            text = text.replace(f'{{"{word}": ', f"{{'{word}': ")
    return Written([(name, arguments)], text)


def together(parts: list[Written], text: str) -> Written:
    return Written([call for part in parts for call in part.calls], text)


@st.composite
def lists(draw: Draw) -> Written:
    """A list of objects, of Python calls, or of both."""
    chance = draw(CHANCES)
    parts = draw(st.lists(objects() | python_calls(), min_size=1, max_size=3))
    space = pick(chance, "", " ", "\n")
    return together(parts, bracketed(chance, "[", [part.text for part in parts], "]", space))


@st.composite
def lines(draw: Draw) -> Written:
    """Lines of Python calls."""
    parts = draw(st.lists(statements(), min_size=1, max_size=3))
    return together(parts, "\n".join(part.text for part in parts))


@st.composite
def runs(draw: Draw) -> Written:
    """Objects behind one another."""
    chance = draw(CHANCES)
    parts = draw(st.lists(objects(), min_size=1, max_size=3))
    return together(parts, pick(chance, ", ", "; ", "\n", "").join(part.text for part in parts))


@st.composite
def blocks(draw: Draw, comments: bool = True) -> Written:
    """What a fenced block or tags enclose: any calls, and comments between them."""
    chance = draw(CHANCES)
    parts = draw(st.lists(objects() | statements() | lists(), min_size=1, max_size=3))
    text = ""
    for part in parts:
        text += pick(chance, "", "\n", "# it's a (comment\n", "// another [\n") if comments else ""
        text += part.text + pick(chance, "\n", "\n\n", " # look\n")
    return together(parts, text)


LABELS = ("", "json", "JSON", "py", "python", "Python", "python3", "tool_code", "tool_call")


@st.composite
def fences(draw: Draw) -> Written:
    chance = draw(CHANCES)
    block = draw(blocks())
    ticks = pick(chance, "```", "```", "````")
    return Written(block.calls, f"{ticks}{pick(chance, *LABELS)}{pick(chance, '', ' ')}\n{block.text}{ticks}")


@st.composite
def tags(draw: Draw) -> Written:
    chance = draw(CHANCES)
    name = pick(chance, "tool_call", "tool_call", "tool_calls", "function_call", "tool_code")
    parts = draw(st.lists(blocks(), min_size=1, max_size=2))
    space = pick(chance, "", "\n")
    return together(parts, "\n".join(f"<{name}>{space}{part.text}{space}</{name}>" for part in parts))


FORMS: dict[str, st.SearchStrategy[Written]] = {
    "object": objects(),
    "objects": runs(),
    "list": lists(),
    "lines": lines(),
    "fence": fences(),
    "tags": tags(),
}
