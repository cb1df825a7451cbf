"""vLLM's own parsers for models that write calls, or reasoning, in their own way."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from octet.engine.types import (
    Delta,
    GenerationRequest,
    OutputFormat,
    OutputKind,
    Prompt,
    ReasoningDelta,
    Sampling,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolChoice,
    ToolChoiceMode,
)
from octet.engine.vllm.serving.answer import AnswerParsing, AnswerReader
from octet.errors import InvalidRequestError, StartupError

CLOCK = Tool("get_time", "", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK_TOO = Tool("get_other_time", "", {"type": "object"})


@pytest.fixture(scope="module")
def tokenizer(model_path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path)


def reader(
    tokenizer: Any,
    tool_parser: str | None,
    reasoning_parser: str,
    mode: ToolChoiceMode,
    *,
    tools: tuple[Tool, ...] = (CLOCK,),
    form: OutputFormat | None = None,
    **sampling: Any,
) -> AnswerReader:
    from vllm.sampling_params import SamplingParams

    model: Any = SimpleNamespace(hf_config=SimpleNamespace(model_type="llama"), model="a-llama")
    parsing = AnswerParsing(tokenizer, model, tool_parser, reasoning_parser, {})
    name = CLOCK.name if mode is ToolChoiceMode.NAMED else ""
    choice = ToolChoice(mode, name)
    request = GenerationRequest(
        "id", (), tools=tools, tool_choice=choice, sampling=Sampling(**sampling), output_format=form
    )
    (made,) = parsing.plan(request, [1, 2], SamplingParams()).readers
    return made


def read(reader: AnswerReader, tokenizer: Any, text: str) -> list[Delta]:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    deltas: list[Delta] = []
    for at, token in enumerate(tokens):
        piece = tokenizer.decode([token])
        deltas += reader.read(piece, [token], [1, 2], finished=at == len(tokens) - 1)
    return deltas


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def call_of(deltas: list[Delta]) -> tuple[str, str]:
    calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert {call.call_index for call in calls} == {0}
    assert calls[0].id
    return calls[0].name, "".join(call.arguments_json for call in calls)


def test_a_parser_by_name_finds_calls(tokenizer: Any) -> None:
    made = reader(tokenizer, "pythonic", "", ToolChoiceMode.AUTO)
    deltas = read(made, tokenizer, '[get_time(city="Oslo")]')
    assert call_of(deltas) == ("get_time", '{"city": "Oslo"}')
    assert text_of(deltas) == ""
    assert made.made_calls


@pytest.mark.parametrize("parser", ["pythonic", "gemma3"])
@pytest.mark.parametrize("sampling", [{"stop": ("Tromsø",)}, {"stop_token_ids": (9,)}])
def test_a_call_that_a_stop_cuts_off(tokenizer: Any, parser: str, sampling: dict[str, Any]) -> None:
    made = reader(tokenizer, parser, "", ToolChoiceMode.AUTO, **sampling)
    deltas = read(made, tokenizer, '[get_time(city="Oslo"), get_time(city="')
    assert call_of(deltas) == ("get_time", '{"city": "Oslo"}')
    assert text_of(deltas) == ""
    assert not made.made_calls


def test_arguments_by_place_have_the_names_of_the_schema(tokenizer: Any) -> None:
    made = reader(tokenizer, "gemma3", "", ToolChoiceMode.AUTO)
    assert call_of(read(made, tokenizer, 'get_time("Oslo")')) == ("get_time", '{"city": "Oslo"}')
    assert made.made_calls


def test_a_parser_by_name_leaves_text(tokenizer: Any) -> None:
    made = reader(tokenizer, "pythonic", "", ToolChoiceMode.AUTO)
    assert text_of(read(made, tokenizer, "It is late.")) == "It is late."
    assert not made.made_calls


def test_demanded_calls_are_read_by_the_scanner_for_every_model(tokenizer: Any) -> None:
    made = reader(tokenizer, "pythonic", "", ToolChoiceMode.REQUIRED)
    deltas = read(made, tokenizer, '[{"name": "get_time", "parameters": {"city": "Oslo"}}]')
    assert call_of(deltas) == ("get_time", '{"city": "Oslo"}')


OTHERS = ", ".join(f"{name}(n={n})" for n, name in enumerate(("other", "get_time", "another", "get_time")))


def test_what_a_parser_takes_for_calls_of_other_functions_is_text(tokenizer: Any) -> None:
    made = reader(tokenizer, "pythonic", "", ToolChoiceMode.AUTO)
    deltas = read(made, tokenizer, f"[{OTHERS}]")
    calls = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    names = [(call.call_index, call.name) for call in calls if call.name]
    assert names == [(0, "get_time"), (1, "get_time")]
    assert [call.arguments_json for call in calls if call.arguments_json][-1].endswith("}")
    assert (
        text_of(deltas)
        == '{"name": "other", "arguments": {"n": 0}}{"name": "another", "arguments": {"n": 2}}'
    )


def test_another_parsers_calls_are_not_held(tokenizer: Any) -> None:
    strict = replace(CLOCK, strict=True)
    with pytest.raises(InvalidRequestError, match="not served with --tool-call-parser pythonic") as raised:
        reader(tokenizer, "pythonic", "", ToolChoiceMode.AUTO, tools=(CLOCK_TOO, strict))
    assert raised.value.field == "tools[1].strict"
    for mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED, ToolChoiceMode.NONE):
        assert reader(tokenizer, "pythonic", "", mode, tools=(CLOCK_TOO, strict))


@pytest.mark.parametrize("parser", ["pythonic", "gemma3", None])
def test_calls_beside_a_form_are_read_by_the_scanner_for_every_model(
    tokenizer: Any, parser: str | None
) -> None:
    form = OutputFormat(OutputKind.JSON_OBJECT)
    made = reader(tokenizer, parser, "", ToolChoiceMode.AUTO, form=form)
    deltas = read(made, tokenizer, '[{"name": "get_time", "parameters": {"city": "Oslo"}}]')
    assert call_of(deltas) == ("get_time", '{"city": "Oslo"}')
    text = '{"name":"get_time","parameters":{}}'
    made = reader(tokenizer, parser, "", ToolChoiceMode.AUTO, form=form)
    assert text_of(read(made, tokenizer, text)) == text


def test_reasoning_is_apart_from_the_answer(tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<think>", "</think>"])
    made = reader(tokenizer, None, "deepseek_r1", ToolChoiceMode.NONE)
    deltas = read(made, tokenizer, "it is night</think>It is late.")
    assert text_of(deltas) == "It is late."
    reasoning = [delta for delta in deltas if isinstance(delta, ReasoningDelta)]
    assert "".join(delta.text for delta in reasoning) == "it is night"
    assert deltas[: len(reasoning)] == reasoning


def test_a_reasoning_parser_that_the_tokenizer_cannot_serve(tokenizer: Any) -> None:
    with pytest.raises(StartupError, match="--reasoning-parser deepseek_r1 cannot be used") as raised:
        reader(tokenizer, None, "deepseek_r1", ToolChoiceMode.NONE)
    assert "\n" not in str(raised.value)


def test_nobody_guesses_how_a_model_writes_calls(tokenizer: Any) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        reader(tokenizer, None, "", ToolChoiceMode.AUTO)
    assert raised.value.field == "tool_choice"


@pytest.mark.parametrize("reasoning_parser", ["", "deepseek_r1"])
def test_what_follows_on_a_raw_prompt_is_text(tokenizer: Any, reasoning_parser: str) -> None:
    """Whatever it looks like; and constraints hold from its first token on, not from the end of reasoning."""
    from vllm.sampling_params import SamplingParams

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<think>", "</think>"])
    model: Any = SimpleNamespace(hf_config=SimpleNamespace(model_type="gemma3"), model="a-gemma")
    parsing = AnswerParsing(tokenizer, model, None, reasoning_parser, {})
    request = GenerationRequest("id", prompt=Prompt("prompts[0]", (TextPart("a"),)))
    plan = parsing.plan(request, [1, 2], SamplingParams(n=2))
    assert plan.engine_arguments == ({"reasoning_ended": True} if reasoning_parser else {})
    assert len(plan.readers) == 2
    said = 'hm</think>[get_time(city="Oslo")]'
    assert text_of(read(plan.readers[1], tokenizer, said)) == said
