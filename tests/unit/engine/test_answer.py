"""A candidate's text as deltas."""

from octet.engine.types import Delta, TextDelta, ToolCallDelta
from octet.engine.vllm.answer import AnswerReader
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
