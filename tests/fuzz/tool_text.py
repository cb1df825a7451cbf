"""What models may write: tool calls of every form, whole and damaged."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_WORDS = st.sampled_from(
    ["", "Let me look. ", "\n", "```", "Done [1].", "{", "[", "日本 ", "print(", '"', "\r\n", "\0"]
)
_DAMAGE = st.sampled_from(
    [
        "",
        '"',
        "'",
        '"""',
        "\\",
        "\\u",
        "\\ud83d",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        ":",
        "=",
        "`",
        "```",
        "\n",
        " " * 40,
        "#",
        "*",
        "**a",
        "name",
        "f(",
        "\u2028",
        "\0",
        "1e",
        "-",
        "0x",
        "tru",
        "[" * 60,
        "(" * 300,
    ]
)
_LITERALS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(['it\'s "so"', "a\\b", "}]\n{", "```", "日本"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def _call(draw: st.DrawFn, names: Sequence[str]) -> str:
    name = draw(st.sampled_from([*names, "unknown"]))
    arguments: dict[str, Any] = draw(
        st.dictionaries(st.sampled_from(["a", "city", "x1", "é"]), _LITERALS, max_size=3)
    )
    form = draw(st.integers(0, 3))
    if form == 0:
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    keys = draw(st.sampled_from([("name", "parameters"), ("name", "arguments"), ("type", "function")]))
    call = {keys[0]: name, keys[1]: arguments}
    if form == 1:
        call = dict(reversed(list(call.items())))
    return json.dumps(call, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))


@st.composite
def tool_texts(draw: st.DrawFn, names: Sequence[str]) -> str:
    """A text with calls of tools of these names in it, whole and damaged."""
    calls = draw(st.lists(_call(names), min_size=1, max_size=3))
    separator = draw(st.sampled_from([", ", ",\n", "\n", " ", ";"]))
    text = separator.join(calls)
    opening, closing = draw(
        st.sampled_from(
            [
                ("", ""),
                ("[", "]"),
                ("```json\n", "\n```"),
                ("```tool_code\n[", "]\n```"),
                ("```python\n", "```"),
            ]
        )
    )
    text = draw(_WORDS) + opening + text + closing + draw(_WORDS)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(_DAMAGE) + text[at + draw(st.integers(0, 3)) :]
    return text
