"""A candidate's text as deltas."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from octet.engine.types import (
    Delta,
    GenerationRequest,
    Message,
    OutputFormat,
    OutputKind,
    ReasoningDelta,
    Role,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
    ToolChoiceMode,
)
from octet.engine.vllm.serving.answer import AnswerReader, scanner_of
from octet.engine.vllm.serving.begun import begun_turn
from octet.translate.tools import ToolCallScanner


def read(reader: AnswerReader, *pieces: str) -> list[Delta]:
    deltas = [delta for piece in pieces for delta in reader.read(piece, [], [], finished=False)]
    return deltas + reader.read("", [], [], finished=True)


def test_plain_text_passes() -> None:
    reader = AnswerReader(2, None, None, None)
    assert read(reader, "Hel", "", "lo [1]") == [TextDelta(2, "Hel"), TextDelta(2, "lo [1]")]
    assert not reader.made_calls


def test_calls_carry_id_and_name_once() -> None:
    reader = AnswerReader(0, ToolCallScanner(["f"]), None, None)
    deltas = read(reader, '[{"name": "f", "parameters": {"a"', ": 1}}", ', {"name": "f", "parameters": {}}]')
    calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert calls == deltas
    assert [(call.call_index, call.name, call.arguments_json) for call in calls] == [
        (0, "f", '{"a"'),
        (0, "", ": 1}"),
        (1, "f", "{}"),
    ]
    assert [bool(call.id) for call in calls] == [True, False, True]
    assert calls[0].id != calls[2].id
    assert reader.made_calls


def test_text_held_back_for_a_call_comes_at_the_end() -> None:
    reader = AnswerReader(0, ToolCallScanner(["f"]), None, None)
    assert read(reader, 'see [{"name": "f') == [TextDelta(0, "see"), TextDelta(0, ' [{"name": "f')]


def test_reading_ends_behind_the_only_call_that_is_wanted() -> None:
    reader = AnswerReader(0, ToolCallScanner(["f"], one_call=True), None, None, one_call=True)
    deltas = reader.read("Look: [f(a=1)", [], [], finished=False)
    assert not reader.done
    deltas += reader.read(", f(a=2)]", [], [], finished=False)
    assert reader.done
    assert [type(delta) for delta in deltas] == [TextDelta, ToolCallDelta]


F, G = (Tool(name, "", {"type": "object", "properties": {"a": {}}}) for name in ("f", "g"))
BOTH = '[{"name": "f", "parameters": {}}, {"name": "g", "parameters": {}}]'


def made(text: str, *tools: Tool, form: OutputFormat | None = None, **choice: Any) -> tuple[list[str], str]:
    """The names of the calls that are found, and the text."""
    request = GenerationRequest("r", (), tools=tools, tool_choice=ToolChoice(**choice), output_format=form)
    reader = AnswerReader(0, scanner_of(request, whole_calls=False), None, None)
    deltas = read(reader, *text)
    calls = [delta.name for delta in deltas if isinstance(delta, ToolCallDelta) and delta.name]
    assert reader.made_calls == bool(calls)
    return calls, "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def test_only_calls_of_allowed_tools_are_such() -> None:
    assert made("f(a=1)\ng()", F, G) == (["f", "g"], "")
    assert made("f(a=1)", F, G, allowed_names=("g",)) == ([], "f(a=1)")
    assert made("g(a=1)", F, G, allowed_names=("g",)) == (["g"], "")
    assert made('{"name": "f"} {"name": "g"}', F, G, allowed_names=("g",)) == (["g"], '{"name": "f"}')


def test_beside_a_form_an_answer_is_calls_or_text() -> None:
    form = OutputFormat(OutputKind.JSON_OBJECT)
    assert made(BOTH, F, G, form=form) == (["f", "g"], "")
    assert made(BOTH, F, G, form=form, parallel_calls=False) == (["f"], "")
    for text in ('{"name":"f","parameters":{}}', "f(a=1)", '[{"name":"f"}]', "[f()]"):
        assert made(text, F, G, form=form) == ([], text)


def test_calls_of_strict_tools_are_those_that_were_held() -> None:
    strict = replace(F, strict=True)
    assert made(BOTH, strict, G) == (["f", "g"], "")
    assert made("f(a=1)", strict, G) == (["f"], "")
    assert made("f (a=1)", strict, G) == ([], "f (a=1)")
    loose = replace(strict, parameters={"type": "object"})
    assert made("f(a=1)", loose, G) == ([], "f(a=1)")
    assert made("g(a=1)", strict, G) == (["g"], "")
    # Those that are demanded are held as they are.
    assert made("f(a=1)", strict, G, mode=ToolChoiceMode.REQUIRED) == (["f"], "")


class Parser:
    """Stands for one of vLLM's parsers: gives what it was made with, an item for each piece."""

    def __init__(self, *messages: object) -> None:
        self._messages = list(messages)

    def parse_delta(self, *_: object, **__: object) -> object:
        return self._messages.pop(0)


def message(reasoning: str = "", content: str = "", calls: tuple[tuple[int, str, str], ...] = ()) -> object:
    return SimpleNamespace(
        reasoning=reasoning or None,
        content=content or None,
        tool_calls=[
            SimpleNamespace(
                index=index,
                id=f"call_{index}" if name else None,
                function=SimpleNamespace(name=name or None, arguments=arguments),
            )
            for index, name, arguments in calls
        ],
    )


def test_reasoning_of_a_parser_comes_before_its_text_and_calls() -> None:
    parser = Parser(message("hm"), message("m", "Yes.", ((0, "f", "{}"),)), None)
    reader = AnswerReader(0, None, parser, None)
    assert read(reader, "", "") == [
        ReasoningDelta(0, "hm"),
        ReasoningDelta(0, "m"),
        TextDelta(0, "Yes."),
        ToolCallDelta(0, 0, "call_0", "f", "{}"),
    ]


def test_text_behind_reasoning_is_scanned_for_calls() -> None:
    reader = AnswerReader(0, ToolCallScanner(["f"]), Parser(message("f()", "[f(a=1)]"), None), None)
    reasoning, call = read(reader, "")
    assert reasoning == ReasoningDelta(0, "f()")
    assert isinstance(call, ToolCallDelta)


def test_a_parsers_second_call_ends_the_reading() -> None:
    calls = message(calls=((0, "", "}"), (1, "f", "{")))
    reader = AnswerReader(0, None, Parser(message(calls=((0, "f", "{"),)), calls), None, one_call=True)
    deltas = reader.read("", [], [], finished=False)
    assert not reader.done
    deltas += reader.read("", [], [], finished=False)
    assert reader.done
    assert [delta.arguments_json for delta in deltas if isinstance(delta, ToolCallDelta)] == ["{", "}"]


def ended(reader: AnswerReader, *pieces: str) -> list[tuple[str, str]]:
    """The calls of an answer, as name and arguments."""
    calls: list[tuple[str, str]] = []
    for delta in read(reader, *pieces):
        if isinstance(delta, ToolCallDelta) and delta.name:
            calls.append((delta.name, delta.arguments_json))
        elif isinstance(delta, ToolCallDelta):
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments_json)
    return calls


def test_an_answer_that_ends_within_a_call_has_not_ended_with_calls() -> None:
    reader = AnswerReader(0, ToolCallScanner(["f"]), None, None)
    assert ended(reader, '[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {"a') == [
        ("f", "{}"),
        ("f", '{"a'),
    ]
    assert not reader.made_calls


def test_of_a_call_that_a_stop_string_cuts_off_nothing_is_given() -> None:
    reader = AnswerReader(0, ToolCallScanner(["f"], whole_calls=True), None, None, whole_calls=True)
    assert ended(reader, '[{"name": "f", "arguments": {}}, {"name": "f", "arg', 'uments": {"a') == [
        ("f", "{}")
    ]
    assert not reader.made_calls


def pieces_of_calls(*pieces: tuple[int, str, str]) -> Parser:
    return Parser(*(message(calls=(piece,)) for piece in pieces), None)


COMPLETE = ((0, "f", '{"a": '), (0, "", "1}"), (1, "f", "{}"))


@pytest.mark.parametrize("whole_calls", [False, True])
def test_a_parsers_calls_are_complete(whole_calls: bool) -> None:
    reader = AnswerReader(0, None, pieces_of_calls(*COMPLETE), None, whole_calls=whole_calls)
    assert ended(reader, "", "", "") == [("f", '{"a": 1}'), ("f", "{}")]
    assert reader.made_calls


@pytest.mark.parametrize("last", ["", "{", '{"a": "x', '{"a": 1', '{"a": 1, ', '{"a": "}"'])
@pytest.mark.parametrize("whole_calls", [False, True])
def test_a_parsers_call_that_is_cut_off(last: str, whole_calls: bool) -> None:
    parser = pieces_of_calls(*COMPLETE[:2], (1, "f", last))
    reader = AnswerReader(0, None, parser, None, whole_calls=whole_calls)
    assert ended(reader, "", "", "") == [("f", '{"a": 1}'), ("f", last)][: 2 - whole_calls]
    assert not reader.made_calls


def test_a_parsers_only_call_is_given_whole() -> None:
    parser = pieces_of_calls(*COMPLETE)
    reader = AnswerReader(0, None, parser, None, one_call=True, whole_calls=True)
    assert [reader.read("", [], [], finished=False) for _ in range(2)] == [[], []]
    first = [delta for delta in reader.read("", [], [], finished=False) if isinstance(delta, ToolCallDelta)]
    assert [delta.arguments_json for delta in first] == ['{"a": ', "1}"]
    assert reader.done
    assert reader.made_calls


@pytest.mark.parametrize(
    ("tools", "form", "choice"),
    [
        ((F, G), OutputFormat(OutputKind.JSON_OBJECT), {}),
        ((replace(F, strict=True), G), None, {}),
        ((F, G), None, {"mode": ToolChoiceMode.REQUIRED}),
        ((F, G), None, {"allowed_names": ("f", "g")}),
    ],
)
def test_calls_that_go_on(tools: tuple[Tool, ...], form: OutputFormat | None, choice: dict[str, Any]) -> None:
    """Cut anywhere within the first call, both come as a whole, the first with the id that it had."""
    written = '[{"name": "f", "parameters": {"a": 1}}, {"name": "g", "parameters": {}}]'
    head = '[{"name": "f", "parameters": '
    for at in range(len(head), written.index("}}")):
        call = ToolCallPart("c1", "f", written[len(head) : at])
        messages = (Message(Role.USER, (TextPart("?"),)), Message(Role.ASSISTANT, (call,)))
        request = GenerationRequest(
            "r", messages, tools=tools, tool_choice=ToolChoice(**choice), output_format=form
        )
        begun = begun_turn(messages)
        assert begun is not None
        assert begun.text == written[:at]
        reader = AnswerReader(0, scanner_of(request, begun, whole_calls=False), None, None, call_id="c1")
        deltas = read(reader, *written[at:])
        assert not any(isinstance(delta, TextDelta) for delta in deltas)
        calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
        assert [call.name for call in calls if call.id] == ["f", "g"]
        assert calls[0].id == "c1"
        assert "".join(call.arguments_json for call in calls if call.call_index == 0) == '{"a": 1}'
        assert "".join(call.arguments_json for call in calls if call.call_index == 1) == "{}"
