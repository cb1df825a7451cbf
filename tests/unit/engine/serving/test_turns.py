"""What becomes of a conversation that a template cannot say as it is."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octet.engine.types import (
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from octet.engine.vllm.serving.turns import Abilities, to_turns

ALL = Abilities()
NONE = Abilities(
    system=False,
    late_system=False,
    repeated=False,
    assistant_first=False,
    calls=False,
    loose_calls=False,
    shown_results=False,
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


def test_pictures_of_results_need_a_template_that_shows_them() -> None:
    picture = ImagePart(Image.new("RGB", (1, 1)))
    one, other = ToolResultPart("1", "f", "of 1"), ToolResultPart("2", "f", "")
    shown = Message(Role.TOOL, (one, picture, picture, other, picture))
    said = [user("a"), model("", "1", "2"), shown, user("c")]
    assert to_turns(said, ALL) == said
    spelled = to_turns(said, Abilities(shown_results=False))
    assert spelled[2].role is Role.USER
    parts = (TextPart("Result of f: of 1"), picture, picture, TextPart("\nResult of f: "), picture)
    assert spelled[2].parts == parts
    assert to_turns(said, STRICT)[2].parts == (*parts, TextPart("\n\nc"))
    plain = [user("a"), model("", "1"), result("1"), user("c")]
    assert to_turns(plain, Abilities(shown_results=False)) == plain


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


abilities = st.builds(Abilities, *[st.booleans()] * 7)
spoken = st.lists(
    st.sampled_from(
        [system("①"), user("②"), user("②", "③"), user(), model("④"), model(), model("④", "1"), result("1")]
    ),
    min_size=1,
    max_size=8,
)


def marks(turns: list[Message]) -> list[str]:
    """The marks in all that is said, in order."""
    texts = (part.text for turn in turns for part in turn.parts if isinstance(part, TextPart))
    return [letter for text in texts for letter in text if letter in "①②③④"]


@given(able=abilities, said=spoken)
def test_turns_are_what_a_template_is_able_to_say(able: Abilities, said: list[Message]) -> None:
    turns = to_turns(said, able)
    roles = [turn.role for turn in turns]
    if not able.repeated:
        assert all(first is not second or first is Role.TOOL for first, second in pairwise(roles))
    if not able.late_system:
        assert Role.SYSTEM not in roles[1:]
    if not able.system and not able.late_system:
        assert Role.SYSTEM not in roles
    if not able.assistant_first:
        spoke = [role for role in roles if role is not Role.SYSTEM]
        assert spoke[:1] != [Role.ASSISTANT]
    if not able.calls:
        assert not any(
            isinstance(part, ToolCallPart | ToolResultPart) for turn in turns for part in turn.parts
        )
    assert marks(turns) == marks(said)
