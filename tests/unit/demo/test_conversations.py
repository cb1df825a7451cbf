import json
import random
from itertools import pairwise

import jsonschema
import pytest

from tools.demo_checkpoint import held_out, names
from tools.demo_checkpoint.chat import chat
from tools.demo_checkpoint.dialogues import request, tool_dialogue, training_dialogue
from tools.demo_checkpoint.draw import Group
from tools.demo_checkpoint.evaluate import parse_calls
from tools.demo_checkpoint.messages import Sample, assistant, calls, system, tool_result, user
from tools.demo_checkpoint.names import NameSource
from tools.demo_checkpoint.pictures import caption, question_about
from tools.demo_checkpoint.tokenizer import IMAGE_SEQUENCE, render

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    },
}


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ((Group("red", "circle", 1),), "a red circle"),
        ((Group("orange", "star", 1),), "an orange star"),
        ((Group("green", "square", 3),), "three green squares"),
        ((Group("red", "circle", 1), Group("green", "square", 3)), "a red circle and three green squares"),
    ],
)
def test_captions_agree_in_number_and_article(groups: tuple[Group, ...], text: str) -> None:
    assert caption(groups) == text


def test_questions_about_pictures_are_unambiguous() -> None:
    rng = random.Random(1)
    two_reds = (Group("red", "circle", 1), Group("red", "square", 2))
    for _ in range(300):
        question, answer = question_about(rng, two_reds)
        assert not ("the red object" in question and answer in ("circle", "squares"))
        if question.startswith("What col"):
            assert answer == "red"


def test_names_values_and_made_up_tools_of_the_two_sides_never_meet() -> None:
    training, other = NameSource(random.Random(1)), NameSource(random.Random(1), held_out=True)
    for draw in (NameSource.word, NameSource.code, NameSource.identifier):
        assert not {draw(training) for _ in range(2000)} & {draw(other) for _ in range(2000)}
    assert not set(names.TRAINING_CITIES) & set(names.HELD_OUT_CITIES)
    assert not set(names.TRAINING_PEOPLE) & set(names.HELD_OUT_PEOPLE)


def test_expected_calls_fit_the_declarations_and_quote_the_question() -> None:
    for case in held_out.held_out_calls(7, 200):
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in case.tools}
        question = case.messages[-1]["content"].lower()
        for call in case.calls:
            jsonschema.validate(call["arguments"], schemas[call["name"]])
            assert list(call["arguments"]) == list(schemas[call["name"]]["properties"])
            assert all(str(value).lower() in question for value in call["arguments"].values())


def test_answers_from_results_quote_the_results() -> None:
    for case in held_out.held_out_results(8, 200):
        result = case.messages[-1]["content"]
        (answer,) = case.accepted
        values = json.loads(result).values() if result.startswith("{") else [result.split(", ")[0]]
        assert any(str(value) in answer for value in values)


def test_the_same_seed_gives_the_same_cases() -> None:
    assert held_out.held_out_calls(3, 20) == held_out.held_out_calls(3, 20)
    assert held_out.held_out_calls(3, 20) != held_out.held_out_calls(4, 20)
    first, second = held_out.held_out_pictures(3, 5), held_out.held_out_pictures(3, 5)
    assert all(
        a.image.tobytes() == b.image.tobytes() and a[1:] == b[1:] for a, b in zip(first, second, strict=True)
    )


def test_dialogues_alternate_and_end_with_the_assistant() -> None:
    rng = random.Random(5)
    for _ in range(400):
        roles = [message["role"] for message in training_dialogue(rng).messages]
        assert roles[-1] == "assistant"
        turns = ["user" if role == "tool" else role for role in roles if role != "system"]
        assert all(a != b or a == "user" for a, b in pairwise(turns))


def test_every_kind_of_dialogue_is_drawn() -> None:
    source = NameSource(random.Random(6))
    drawn = [tool_dialogue(source) for _ in range(400)]
    assert any(not any("tool_calls" in m for m in sample.messages) for sample in drawn)
    assert any(sum(len(m.get("tool_calls", [])) for m in sample.messages) > 1 for sample in drawn)
    assert {len(request(source)[1]) for _ in range(100)} == {1, 2, 3, 4}
    assert any(len(chat(source).messages) > 4 for _ in range(100))


def test_the_prompt_of_a_tool_exchange() -> None:
    call = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    messages = [
        system("Be brief."),
        user("What is the weather in Oslo?"),
        calls(call),
        tool_result({"sky": "clear"}),
    ]
    assert render(Sample([*messages, assistant("It is clear.")], [WEATHER])) == (
        "<bos><start_of_turn>user\nBe brief.\n\nTools:\n"
        '{"name": "get_weather", "description": "Get the weather in a city.", '
        '"parameters": {"city": "string", "unit": ["celsius", "fahrenheit"]}}\n\n'
        "What is the weather in Oslo?<end_of_turn>\n"
        '<start_of_turn>model\n[{"name": "get_weather", "parameters": {"city": "Oslo"}}]<end_of_turn>\n'
        '<start_of_turn>user\nTool result: {"sky": "clear"}<end_of_turn>\n'
        "<start_of_turn>model\nIt is clear.<end_of_turn>\n"
    )


def test_the_prompt_of_a_picture_ends_where_the_model_answers() -> None:
    content = [{"type": "text", "text": "What is this?"}, {"type": "image"}]
    assert render(Sample([{"role": "user", "content": content}]), generate=True) == (
        f"<bos><start_of_turn>user\nWhat is this?{IMAGE_SEQUENCE}<end_of_turn>\n<start_of_turn>model\n"
    )


def test_calls_are_written_as_json_dumps_writes_them() -> None:
    made = [{"name": "f", "arguments": {"a": 'Zoë "x"', "n": 3, "b": True}}, {"name": "g", "arguments": {}}]
    text = render(Sample([user("?"), calls(*made)])).split("model\n")[1].removesuffix("<end_of_turn>\n")
    assert text == json.dumps(held_out.call_text(made), ensure_ascii=False)
    assert parse_calls(text) == made


def test_what_is_no_list_of_calls_parses_as_none() -> None:
    for text in ("", "I do not know.", "{}", "[1]", '[{"name": "f"}]', "[{]"):
        assert not parse_calls(text)
