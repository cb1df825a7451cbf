"""The scanner against plain parsing, and against itself over all ways to cut a text."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.engine.types import Tool, ToolChoice, ToolChoiceMode
from octet.engine.vllm.constraints.schema import to_enforceable
from octet.translate.tool_schema import calls_schema, offered, place
from octet.translate.tools import ArgumentsFound, CallFound, Found, TextFound, ToolCallScanner

NAMES = ("get_weather", "get", "f", "g", "db.query", "send-mail")


def merged(found: list[Found]) -> list[tuple[str, ...]]:
    """Adjacent pieces put together: ("text", text) and ("call", name, arguments)."""
    parts: list[list[str]] = []
    for item in found:
        match item:
            case TextFound(text):
                assert text
                if parts and parts[-1][0] == "text":
                    parts[-1][1] += text
                else:
                    parts.append(["text", text])
            case CallFound(index, name):
                assert index == sum(part[0] == "call" for part in parts)
                parts.append(["call", name, ""])
            case ArgumentsFound(index, text):
                assert parts[-1][0] == "call"
                assert index == sum(part[0] == "call" for part in parts) - 1
                parts[-1][2] += text
    return [tuple(part) for part in parts]


def scan(*pieces: str) -> list[tuple[str, ...]]:
    scanner = ToolCallScanner(NAMES)
    found = [item for piece in pieces for item in scanner.feed(piece)]
    return merged(found + scanner.finish())


CALLS = [
    ('{"name": "f", "parameters": {"a": 1}}', [("f", '{"a": 1}')]),
    ('{ "name" :"f","arguments":{"a":1} }', [("f", '{"a":1}')]),
    ('[{"name": "f", "parameters": {}}]', [("f", "{}")]),
    ('[{"name": "f", "parameters": {"q": "}]\\"{"}}]', [("f", '{"q": "}]\\"{"}')]),
    (
        '[{"name": "get", "parameters": {"a": {"b": [1, {}]}}},\n {"name": "get_weather", "arguments": {}}]',
        [("get", '{"a": {"b": [1, {}]}}'), ("get_weather", "{}")],
    ),
    ('{"parameters": {"a": 1}, "name": "f"}', [("f", '{"a": 1}')]),
    ('{"name": "f"}', [("f", "{}")]),
    ('{"name": "f", "parameters": null}', [("f", "{}")]),
    ('```json\n[{"name": "f", "parameters": {"a": 1}}]\n```', [("f", '{"a": 1}')]),
    ('```tool_code\n{"name": "f", "parameters": {"a": 1}}\n```\n', [("f", '{"a": 1}')]),
    ('```\n{"name": "f", "parameters": {"a": 1}}```', [("f", '{"a": 1}')]),
    ('[f(a="b"), get()]', [("f", '{"a": "b"}'), ("get", "{}")]),
    (
        "[f(a='it\\'s', b=[1, -2.5, (3,)], c={'k': None})]",
        [("f", '{"a": "it\'s", "b": [1, -2.5, [3]], "c": {"k": null}}')],
    ),
    ("[db.query(text=true)]", [("db.query", '{"text": true}')]),
    (
        "[f(a=-1, b=-0.5, c=[[], {}], d={'x': {'y': [None]}},)]",
        [("f", '{"a": -1, "b": -0.5, "c": [[], {}], "d": {"x": {"y": [null]}}}')],
    ),
    (
        """[f(a="it's ] (", b='"', c="\\\\", d=""), g()]""",
        [("f", """{"a": "it's ] (", "b": "\\"", "c": "\\\\", "d": ""}"""), ("g", "{}")],
    ),
    (
        '[f(a=\'\'\'it\\\'s "so",\n)\'\'\', b="""x""\\""""), g(),]',
        [("f", '{"a": "it\'s \\"so\\",\\n)", "b": "x\\"\\"\\""}'), ("g", "{}")],
    ),
    ("[ f ( a = 1 ) ,\n  g ( ) ]", [("f", '{"a": 1}'), ("g", "{}")]),
    (r'[f(a="\d+")]', [("f", r'{"a": "\\d+"}')]),
    ('[f(a="\\ud83d")]', [("f", '{"a": "\\ud83d"}')]),
    ('{"arguments": {"a": "\\ud83d"}, "name": "f"}', [("f", '{"a": "\\ud83d"}')]),
    ('[{"name": "f", "parameters": {"a": -1.5e3}},]', [("f", '{"a": -1.5e3}')]),
    ('get_weather(city="Oslo")', [("get_weather", '{"city": "Oslo"}')]),
    ("  g()\r\nf(\n  a=1,\n)\n", [("g", "{}"), ("f", '{"a": 1}')]),
    ('```python\nf(a="日本")\n```', [("f", '{"a": "日本"}')]),
    ("```python\n[f(a=1), g()]\n```", [("f", '{"a": 1}'), ("g", "{}")]),
    ("```json\n[f(a=1)]```", [("f", '{"a": 1}')]),
    ("```tool_code\nf(a=1)\ng()\n\nget(b=[2])```", [("f", '{"a": 1}'), ("g", "{}"), ("get", '{"b": [2]}')]),
    ('```json\n{"name": "f", "arguments": {}}\n{"name": "g"}\n```', [("f", "{}"), ("g", "{}")]),
    ("```tool_code\n[f(a=1)]\n```", [("f", '{"a": 1}')]),
    ('```tool_code\nget_weather(city="Århus")\n```', [("get_weather", '{"city": "Århus"}')]),
    ('[{"name": "send-mail", "parameters": {"to": "é"}}]', [("send-mail", '{"to": "é"}')]),
]


@pytest.mark.parametrize(("text", "calls"), CALLS)
def test_every_way_to_write_a_call(text: str, calls: list[tuple[str, str]]) -> None:
    assert scan(text) == [("call", *call) for call in calls]


@pytest.mark.parametrize(("text", "calls"), CALLS)
def test_text_around_calls_stays_text(text: str, calls: list[tuple[str, str]]) -> None:
    around = scan(f"Let me look.\n\n{text}\n\nDone [1].")
    assert around == [("text", "Let me look."), *(("call", *call) for call in calls), ("text", "Done [1].")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "Plain words, (brackets) and [links](https://example.test).",
        "[1, 2, 3] and {}",
        '{"name": "unknown", "parameters": {}}',
        '[{"name": "unknown", "parameters": {}}]',
        "[unknown(a=1)]",
        "[f(1)]",
        "[f(*a)]",
        "[f(**a)]",
        "[f(a=open('x'))]",
        "[f(a=1 + 1)]",
        "[f(a=b'x')]",
        "[f(a=1e999)]",
        "[f(a=1, a=2)]",
        "[f(a=1) + 2]",
        "[f(a=1) for x in y]",
        "[f(a={1})]",
        "[f(a={1: 2})]",
        "[f(a=f'{x}')]",
        "[f(a='x'f'{x}')]",
        "[f(a=b)]",
        "[f(a=__import__('os').system('true'))]",
        "[f(a=(lambda: 1)())]",
        "[f(a=1).run()]",
        "[f(a=",
        "f(x) is a function of x.",
        "f(a=1) sets a.",
        "f(a=1) # sets a",
        "Call f(a=1)",
        "f = 1\nf: 2\nget\nget_weather",
        "get_weather (in Oslo)",
        "f(a==1)",
        "f(a=1",
        "f(a=open('x'))\n",
        "```python\nf(a=1).run()\n```",
        '{"name": "f", "parameters": "x"}',
        '{"parameters": {"a": NaN}, "name": "f"}',
        '{"arguments": {}, "name": "f", "more": 1}',
        '{"name": "f", "id": 1}',
        '{"name": "Fiona", "age": 3}',
        '{"name": "f',
        "```python\nprint('x')\n```",
        '```json\n{"a": 1}\n```',
        "``` `` `",
        "[" * 300 + "f(" * 300,
    ],
)
def test_what_is_no_call_stays_the_same_text(text: str) -> None:
    assert scan(text) == ([("text", text)] if text else [])
    assert scan(*text) == scan(text)


@pytest.mark.parametrize(
    ("call", "rest"),
    [
        ('[{"name": "f", "parameters": {}}', ', {"name": "unknown", "parameters": {}}]'),
        ("[f()", ", unknown(a=1)]"),
        ("[f()", ", 2]"),
        ("[f()", ", g(1), f()]"),
        ("[f()", "]]"),
    ],
)
def test_calls_count_although_what_follows_is_none(call: str, rest: str) -> None:
    text = rest.removeprefix("]")
    assert scan(call + rest) == [("call", "f", "{}"), ("text", text)]
    assert scan(*(call + rest)) == scan(call + rest)


@pytest.mark.parametrize(
    "text",
    [
        '[f(a="b")',
        '[f(a="b"),',
        '[f(a="b"), {',
        '[f(a="b"), {"na',
        '[f(a="b"), {"name": "g", "param',
        '[f(a="b"), default_a',
        '[f(a="b"), g(',
        '[f(a="b"), g(x="',
        '{"name": "f", "parameters": {"a": "b"}',
        '{"name": "f", "parameters": {"a": "b"}, "id": "x',
        '{"name": "f", "parameters": {"a": "b"}}, ',
        '{"name": "f", "parameters": {"a": "b"}}, {"name',
        'f(a="b")\ndb.que',
        'f(a="b"); db.query(text="',
        '```tool_code\nf(a="b")',
        '```tool_code\nf(a="b")\ng(x=[',
        '```json\n{"name": "f", "parameters": {"a": "b"}}\n``',
        '<tool_call>{"name": "f", "parameters": {"a": "b"}}</tool',
        '{"tool_calls": [{"name": "f", "parameters": {"a": "b"}}, {"',
    ],
)
def test_what_is_cut_off_behind_a_call_is_no_text(text: str) -> None:
    assert scan(text) == [("call", "f", '{"a": "b"}')]
    assert scan(*text) == scan(text)


@pytest.mark.parametrize("whole_calls", [False, True])
@pytest.mark.parametrize(
    ("text", "cut_off"),
    [
        ("", False),
        ("f(x", True),
        ("f(x y", False),
        ('[f(a="b")', False),
        ('[f(a="b"), g', False),
        ('[f(a="b"), g(', True),
        ('f(a="b', True),
        ('f(a="b")', False),
        ("f(a=x) f(", False),
        ('{"name": "f", "parameters": ', False),
        ('{"name": "f", "parameters": {', True),
        ('{"name": "f", "parameters": {"a": 1, b', True),
        ('{"name": "f", "parameters": {"a": 1}', False),
        ('[{"name": "f", "parameters": {}}, {"name": "f", "parameters": {"a": "x', True),
    ],
)
def test_whether_the_answer_ends_within_arguments(text: str, cut_off: bool, whole_calls: bool) -> None:
    scanner = ToolCallScanner(NAMES, whole_calls=whole_calls)
    scanner.feed(text)
    assert not scanner.cut_off
    scanner.finish()
    assert scanner.cut_off is cut_off


def test_whole_calls_are_reported_when_they_are_complete() -> None:
    scanner = ToolCallScanner(NAMES, whole_calls=True)
    assert scanner.feed('Look: [{"name": "f", "parameters": {"a": ') == [TextFound("Look:")]
    assert scanner.feed('"b"') == []
    assert scanner.feed("}") == [CallFound(0, "f"), ArgumentsFound(0, '{"a": "b"}')]
    assert scanner.feed('}, {"name": "g", "parameters": {"a": "') == []
    assert scanner.finish() == []


def test_a_call_whose_arguments_are_not_complete_is_text_where_whole_ones_are_wanted() -> None:
    text = 'Look: {"name": "f", "parameters": {"a": "b'
    for pieces in ([text], list(text)):
        scanner = ToolCallScanner(NAMES, whole_calls=True)
        found = [item for piece in pieces for item in scanner.feed(piece)]
        assert merged(found + scanner.finish()) == [("text", text)]


@pytest.mark.parametrize(("text", "calls"), CALLS)
def test_all_cuts_in_two_and_three(text: str, calls: list[tuple[str, str]]) -> None:
    whole = scan(f"So: {text} and so on", "\nf()")
    for i in range(len(text) + 4):
        for j in range(i, min(i + 4, len(text) + 4)):
            around = f"So: {text} and so on"
            assert scan(around[:i], around[i:j], around[j:], "\nf()") == whole


@pytest.mark.parametrize(("text", "calls"), CALLS)
def test_the_only_call_that_is_wanted(text: str, calls: list[tuple[str, str]]) -> None:
    scanner = ToolCallScanner(NAMES, one_call=True)
    found: list[Found] = []
    for character in f"Look:\n{text}\n[f()] g()":
        found += scanner.feed(character)
    assert scanner.done
    assert merged(found) == [("text", "Look:"), ("call", *calls[0])]
    assert scanner.feed("[f()]") == scanner.finish() == []


def test_the_only_call_ends_before_the_second_begins() -> None:
    scanner = ToolCallScanner(NAMES, one_call=True)
    scanner.feed('[{"name": "f", "parameters": {"a": 1}')
    assert scanner.done
    scanner = ToolCallScanner(NAMES, one_call=True)
    scanner.feed("[f(a=1),")
    assert scanner.done


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ('{"a": NaN, "b": [1,]}', '{"a": NaN, "b": [1,]}'),
        ("{'a': True, b: False}", '{"a": true, b: False}'),
        ('{"a": (1, (2, x)), "b": 1}', '{"a": (1, (2, x)), "b": 1}'),
        ('{"a": [null, ' + "(" * 200 + "]}", '{"a": [null, ' + "(" * 200 + "]}"),
        ('{"a": "\\uZ}", "b": "}"}', '{"a": "\\uZ}", "b": "}"}'),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", '{"a": ' + "[" * 200 + "]" * 200 + "}"),
        ('{"a": 1 2, "b": {}}', '{"a": 1 2, "b": {}}'),
    ],
)
def test_what_is_no_json_is_passed_on_from_the_fault_on(written: str, given: str) -> None:
    text = f'[{{"name": "f", "parameters": {written}}}, {{"name": "g"}}]'
    assert scan(text) == [("call", "f", given), ("call", "g", "{}")]
    assert scan(*text) == scan(text)


def test_a_truncated_call_keeps_what_was_sent() -> None:
    assert scan('[{"name": "f", "parameters": {"a": "unfin') == [("call", "f", '{"a": "unfin')]


@pytest.mark.parametrize(
    ("before", "held"),
    [
        ("Hello", ""),
        ("Hello ", " "),
        ("Hello world", ""),
        ("hello", "hello"),  # may be a variable
        ("hello ", "hello "),
        ("hello w", ""),
        ("a_variable" * 7, ""),
        ("I\nget_wea", "\nget_wea"),
        ("I\nget_weather (", "\nget_weather ("),
        ("I\nget_weather (in ", "\nget_weather (in "),  # may be a keyword
        ("I\nget_weather (in O", ""),
        ("I\nf(tr", "\nf(tr"),
        ("I\nf(try", "\nf(try"),
        ("I\nf(try ", "\nf(try "),
        ("I\nf(try a", ""),
        ("see [", " ["),
        ("see [1", ""),
        ('see {"', ' {"'),
        ('see {"nam', ' {"nam'),
        ('see {"nab', ""),
        ('see {"name": "ge', ' {"name": "ge'),
        ('see {"name": "gi', ""),
        ("a < ", " "),
        ("I <tool", " <tool"),
        ("I <tools", ""),
        ("I `", " `"),
        ("I `f", ""),
        ("I ``` ", " ``` "),
        ("```python\nf(a=1)\n", "```python\nf(a=1)\n"),
        ("```python\nf(a=1)\nimport ", "```python\nf(a=1)\nimport "),
        ("```python\nf(a=1)\nimport x", ""),
        ("```python\nimport x\nf(", ""),
        ("I\nf(a=1)\n", "\nf(a=1)\n"),
        ("I\nf(a=1) i", ""),
        ('f(a="x\n', "\n"),
    ],
)
def test_text_waits_only_for_what_may_be_a_call(before: str, held: str) -> None:
    scanner = ToolCallScanner(NAMES)
    found = [item for character in before for item in scanner.feed(character)]
    assert all(isinstance(item, TextFound) for item in found)
    assert "".join(item.text for item in found if isinstance(item, TextFound)) + held == before
    assert scan(before) == [("text", before)] or "f(a=1)\n" in before


def test_a_name_is_reported_before_its_arguments_end() -> None:
    scanner = ToolCallScanner(NAMES)
    assert scanner.feed('[{"name": "get') == []
    assert scanner.feed('_weather", "parameters": ') == []
    assert scanner.feed('{"city": "Os') == [CallFound(0, "get_weather"), ArgumentsFound(0, '{"city": "Os')]
    assert scanner.feed('lo"}') == [ArgumentsFound(0, 'lo"}')]
    assert scanner.feed("}]") == []
    assert scanner.finish() == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CALL = st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(), JSON_VALUES, max_size=3))
# Everything that the scanner's decisions hang on, mixed with words.
SCRAPS = st.sampled_from(
    [text for text, _ in CALLS]
    + [
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "`",
        "```",
        "```json\n",
        "```python\n",
        "```tool_code\n",
        '"""',
        "f(a=",
        "\nget(",
        '"',
        "'",
        "\\",
        ",",
        ":",
        " ",
        "\n",
    ]
    + [
        "<tool_call>",
        "</tool_call>",
        "print(",
        "r = ",
        "default_api.",
        ";",
        "#",
        "\n\n",
        "``",
        "````",
        "import x",
    ]
    + [
        '{"id": "x", ',
        '"function": ',
        '"tool_calls": [',
        "'name'",
        "'",
        '{"name": "g", "arguments": ',
        "[",
        "Look",
    ]
    + ['{"name"', '"f"', '"parameters"', '"arguments": {', "[f(", "f", "get", "a=1", "null", "word", "é"]
)


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@given(st.lists(SCRAPS, max_size=12).map("".join), st.data())
def test_the_cuts_do_not_matter(text: str, data: st.DataObject) -> None:
    assert scan(*cut(text, data)) == scan(text)
    assert scan(*text) == scan(text)


@given(st.lists(CALL, min_size=1, max_size=3), st.booleans(), st.data())
def test_json_calls_come_out_verbatim(
    calls: list[tuple[str, Any]], ascii_only: bool, data: st.DataObject
) -> None:
    arguments = [json.dumps(value, ensure_ascii=ascii_only) for _, value in calls]
    listed = ", ".join(
        f'{{"name": "{name}", "parameters": {text}}}'
        for (name, _), text in zip(calls, arguments, strict=True)
    )
    expected = [("call", name, text) for (name, _), text in zip(calls, arguments, strict=True)]
    assert scan(*cut(f"[{listed}]", data)) == expected


def schema_of_calls(choice: ToolChoice) -> dict[str, Any]:
    """As the engine makes it: each tool's schema with references that lead to where it stands."""
    parameters = {i: to_enforceable(TOOLS[i].parameters, place(i)).schema for i in offered(TOOLS, choice)}
    return calls_schema(TOOLS, choice, parameters)


TOOLS = (
    Tool("f", "", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
    Tool("g", "", {"properties": {"n": {"$ref": "#/$defs/node"}}, "$defs": {"node": {"type": "string"}}}),
    Tool("h", "", {}),
)


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ([{"name": "f", "parameters": {"a": 1}}], True),
        ([{"name": "f", "parameters": {"a": 1}}, {"name": "g", "parameters": {"n": "x"}}], True),
        ([{"name": "h", "parameters": {}}], True),
        ([], False),
        ([{"name": "f", "parameters": {}}], False),
        ([{"name": "f", "parameters": {"a": "1"}}], False),
        ([{"name": "g", "parameters": {"n": 1}}], False),
        ([{"name": "other", "parameters": {}}], False),
        ([{"name": "h"}], False),
        ({"name": "h", "parameters": {}}, False),
    ],
)
def test_schema_of_required_calls(answer: Any, valid: bool) -> None:
    schema = schema_of_calls(ToolChoice(ToolChoiceMode.REQUIRED))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(answer) is valid


def test_schema_of_a_single_call() -> None:
    schema = schema_of_calls(ToolChoice(ToolChoiceMode.REQUIRED, parallel_calls=False))
    validator = jsonschema.Draft202012Validator(schema)
    call = {"name": "h", "parameters": {}}
    assert validator.is_valid([call])
    assert not validator.is_valid([call, call])
    assert not validator.is_valid([])


def test_schema_of_a_named_call_takes_that_tool_once() -> None:
    validator = jsonschema.Draft202012Validator(schema_of_calls(ToolChoice(ToolChoiceMode.NAMED, "f")))
    call = {"name": "f", "parameters": {"a": 1}}
    assert validator.is_valid([call])
    assert not validator.is_valid([call, call])
    assert not validator.is_valid([{"name": "h", "parameters": {}}])
