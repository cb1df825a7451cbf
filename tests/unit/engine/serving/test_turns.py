"""What becomes of a conversation that a template cannot say as it is."""

import pytest

from octet.engine.types import Message, ReasoningPart, Role, TextPart, ToolCallPart, ToolResultPart
from octet.engine.vllm.serving.turns import Abilities, to_turns

ALL = Abilities()
NONE = Abilities(
    system=False, late_system=False, repeated=False, assistant_first=False, calls=False, loose_calls=False
)
STRICT = NONE & ALL


def system(text: str) -> Message:
    return Message(Role.SYSTEM, (TextPart(text),))


def user(*texts: str) -> Message:
    return Message(Role.USER, tuple(TextPart(text) for text in texts))


def model(text: str = "", *calls: str) -> Message:
    parts = (TextPart(text),) if text else ()
    return Message(Role.ASSISTANT, (*parts, *(ToolCallPart(call, "f", '{"a": 1}') for call in calls)))


def result(*calls: str) -> Message:
    return Message(Role.TOOL, tuple(ToolResultPart(call, "f", f"of {call}") for call in calls))


CALL = '[{"name": "f", "parameters": {"a": 1}}]'


@pytest.mark.parametrize(
    ("said", "turns"),
    [
        ([user("Hello ", " world")], [user("Hello  world")]),
        ([user("a"), user("b")], [user("a\n\nb")]),
        ([user("a"), model("b"), model("c"), user("d")], [user("a"), model("b\n\nc"), user("d")]),
        ([user("a"), model(), model("c"), user("d")], [user("a"), model("c"), user("d")]),
        ([user("a"), model(), user("d")], [user("a"), model(), user("d")]),
        ([model("a"), user("b")], [user(), model("a"), user("b")]),
        ([system("s"), user("a")], [user("s\n\na")]),
        ([system("s"), model("a"), user("b")], [user("s"), model("a"), user("b")]),
        ([system("s"), system("t")], [user("s\n\nt")]),
        ([user("a"), model("b"), system("s")], [user("a"), model("b"), user("s")]),
        (
            [user("a"), model("b", "1", "2"), result("1", "2"), user("c")],
            [
                user("a"),
                model(f"b\n{CALL[:-1]}, {CALL[1:]}"),
                user("Result of f: of 1\nResult of f: of 2\n\nc"),
            ],
        ),
        ([user("a"), model("", "1"), user("c")], [user("a"), model(CALL), user("c")]),
    ],
)
def test_for_a_template_of_users_and_the_model_in_turn(said: list[Message], turns: list[Message]) -> None:
    assert to_turns(said, STRICT) == turns


def test_one_system_message_before_all_others_stays_one() -> None:
    able = Abilities(late_system=False, repeated=False)
    said = [system("s"), system("t"), user("a"), model("b"), system("u"), user("c")]
    assert to_turns(said, able) == [system("s\n\nt"), user("a"), model("b"), user("u\n\nc")]


def test_what_a_template_says_stays_as_it_is() -> None:
    said = [
        *(system("s"), user("a"), user("b"), system("t"), model("c"), model("", "1", "2"), user("d")),
        *(result("2"), result("1"), system("u")),
    ]
    assert to_turns(said, ALL) == said


def test_calls_end_their_message() -> None:
    call = ToolCallPart("1", "f", '{"a": 1}')
    spoke = Message(Role.ASSISTANT, (call, TextPart("b"), ReasoningPart("r")))
    said = [user("a"), spoke, result("1"), user("c")]
    split = [Message(Role.ASSISTANT, (ReasoningPart("r"), call)), model("b")]
    assert to_turns(said, ALL) == [user("a"), *split, result("1"), user("c")]
    spelled = to_turns(said, Abilities(repeated=False))
    assert spelled[1].parts == (ReasoningPart("r"), TextPart(f"{CALL}\nb"))


def test_late_results_need_a_template_that_takes_them() -> None:
    said = [user("a"), model("", "1"), user("b"), result("1"), user("c")]
    able = Abilities(loose_calls=False)
    assert to_turns(said, able)[1:4] == [model(CALL), user("b"), user("Result of f: of 1")]
    prompt = [user("a"), model("", "1"), result("1"), user("b")]
    assert to_turns(prompt, able) == prompt


def test_arguments_are_repeated_as_the_model_wrote_them() -> None:
    call = ToolCallPart("1", "f", '{"a":1,}\n')
    [_, spelled, _] = to_turns([user("a"), Message(Role.ASSISTANT, (call,)), user("b")], STRICT)
    assert spelled == model('[{"name": "f", "parameters": {"a":1,}\n}]')
