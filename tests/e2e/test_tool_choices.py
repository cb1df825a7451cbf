"""Tools beside an output format, strict tools and allowed ones, over the real vLLM."""

import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from octet.engine.types import (
    FinishReason,
    OutputFormat,
    OutputKind,
    Sampling,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from octet.engine.vllm.serving.engine import VllmEngine
from octet.errors import InvalidRequestError
from tests.e2e.test_engine import Answer, ask, run

pytestmark = pytest.mark.asyncio(loop_scope="session")

WEATHER_QUESTION = "What is the weather in Oslo?"
PLAIN_QUESTION = "What is the capital of France?"
LONG = Sampling(temperature=0.0, max_tokens=200)


def city(*names: str) -> dict[str, Any]:
    """A schema of arguments with a city out of these."""
    values = {"enum": list(names)} if names else {"type": "string", "maxLength": 12}
    return {
        "type": "object",
        "properties": {"city": values},
        "required": ["city"],
        "additionalProperties": False,
    }


WEATHER = Tool("get_weather", "The weather of a city.", city())
CLOCK = Tool("get_time", "The time.", {"type": "object", "properties": {}, "additionalProperties": False})
NAMED = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "parameters": {"type": "object", "maxProperties": 0},
    },
    "required": ["name", "parameters"],
    "additionalProperties": False,
}
FORMS = {
    "json_object": OutputFormat(OutputKind.JSON_OBJECT),
    "json_schema": OutputFormat(OutputKind.JSON_SCHEMA, NAMED),
    "free white space": OutputFormat(OutputKind.JSON_SCHEMA, NAMED, white_space=True),
    "a list": OutputFormat(
        OutputKind.JSON_SCHEMA, {"type": "array", "items": NAMED, "maxItems": 2}, as_text=True
    ),
    "regex": OutputFormat(OutputKind.REGEX, "[A-Z][a-z]{2,8}"),
    "grammar": OutputFormat(OutputKind.GRAMMAR, 'root ::= "<" [a-z]{2,8} ">"'),
    "choice": OutputFormat(OutputKind.CHOICE, ("red", "green")),
}


def calls_of(answer: Answer) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for _, name, arguments in answer.calls.values()]


async def asked(engine: VllmEngine, question: str, *tools: Tool, **fields: Any) -> Answer:
    """The answer, which is calls, or text and no calls."""
    fields.setdefault("sampling", LONG)
    answer = await run(engine, ask(question, tools=tools, **fields))
    assert bool(answer.calls) == (answer.reasons[0] is FinishReason.TOOL_CALLS)
    for name, arguments in calls_of(answer):
        [schema] = [tool.parameters for tool in tools if tool.name == name]
        jsonschema.validate(arguments, dict(schema))
    return answer


@pytest.mark.parametrize("name", FORMS)
async def test_calls_are_made_beside_a_form(engine: VllmEngine, name: str) -> None:
    answer = await asked(engine, WEATHER_QUESTION, WEATHER, CLOCK, output_format=FORMS[name])
    assert calls_of(answer)[0] == ("get_weather", {"city": "Oslo"})
    assert answer.texts == {}
    one = await asked(
        engine,
        WEATHER_QUESTION,
        WEATHER,
        output_format=FORMS[name],
        tool_choice=ToolChoice(parallel_calls=False),
    )
    assert len(one.calls) == 1


@pytest.mark.parametrize("name", FORMS)
async def test_answers_have_the_form_where_no_call_is_made(engine: VllmEngine, name: str) -> None:
    """A call's first token is kept from being sampled: the model might make one where nobody expects it."""
    form = FORMS[name]
    forbidden = dict.fromkeys(await tokens_with(engine, "["), -100.0) if name != "a list" else {}
    sampling = replace(LONG, logit_bias=forbidden)
    answer = await asked(engine, PLAIN_QUESTION, CLOCK, output_format=form, sampling=sampling)
    if name == "a list" and answer.calls:
        return
    assert answer.calls == {}
    text = answer.texts[0]
    if answer.reasons[0] is FinishReason.LENGTH:
        # Small models find no end of an object.
        assert form.white_space or form.kind is OutputKind.JSON_OBJECT
        assert text.startswith("{")
        return
    match form.kind:
        case OutputKind.JSON_OBJECT:
            assert isinstance(json.loads(text), dict)
        case OutputKind.JSON_SCHEMA:
            assert isinstance(form.spec, dict)
            jsonschema.validate(json.loads(text), form.spec)
        case OutputKind.CHOICE:
            assert text in ("red", "green")
        case OutputKind.REGEX:
            assert re.fullmatch("[A-Z][a-z]{2,8}", text)
        case OutputKind.GRAMMAR:
            assert re.fullmatch("<[a-z]{2,8}>", text)


async def tokens_with(engine: VllmEngine, text: str) -> list[int]:
    """The tokens that begin with a text."""
    ids = range(engine.model.vocabulary_size)
    return [i for i in ids if (await engine.detokenize([i], skip_special_tokens=False)).startswith(text)]


async def test_several_candidates_may_be_of_both_kinds(engine: VllmEngine) -> None:
    sampling = Sampling(temperature=2.0, seed=5, n=6, max_tokens=200)
    request = ask(WEATHER_QUESTION, tools=(WEATHER,), output_format=FORMS["choice"], sampling=sampling)
    answer = await run(engine, request)
    assert set(answer.reasons) == set(range(6))
    for index, reason in answer.reasons.items():
        made = [call for candidate, call in answer.calls if candidate == index]
        assert bool(made) == (reason is FinishReason.TOOL_CALLS)
        assert made or answer.texts[index] in ("red", "green") or reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (OutputFormat(OutputKind.JSON_SCHEMA, {}, white_space=True), "output_format.json_schema"),
        (OutputFormat(OutputKind.GRAMMAR, "root ::= [^x]*"), "output_format.grammar"),
        (OutputFormat(OutputKind.CHOICE, ('[{"name": "',)), "output_format.choice.values[0]"),
    ],
)
async def test_forms_that_cannot_be_told_from_calls(
    engine: VllmEngine, form: OutputFormat, field: str
) -> None:
    with pytest.raises(InvalidRequestError, match="as calls of tools do") as raised:
        await asked(engine, PLAIN_QUESTION, CLOCK, output_format=form)
    assert raised.value.field == field


async def test_strict_tools_hold_what_the_model_would_have_written(engine: VllmEngine) -> None:
    free = replace(WEATHER, parameters=city("Rome", "Lima"))
    wrong = await run(engine, ask(WEATHER_QUESTION, tools=(free, CLOCK), sampling=LONG))
    assert calls_of(wrong) == [("get_weather", {"city": "Oslo"})]
    held = await asked(engine, WEATHER_QUESTION, replace(free, strict=True), CLOCK)
    assert [name for name, _ in calls_of(held)] == ["get_weather"]
    assert held.texts == {}


async def test_beside_strict_tools_everything_else_is_as_it_was(engine: VllmEngine) -> None:
    strict = replace(CLOCK, name="get_moon", strict=True)
    for question in (WEATHER_QUESTION, PLAIN_QUESTION, "Tell me a story."):
        tools = (WEATHER, strict)
        free = await run(engine, ask(question, tools=(WEATHER, replace(strict, strict=False)), sampling=LONG))
        held = await asked(engine, question, *tools)
        assert (held.texts, calls_of(held)) == (free.texts, calls_of(free))
        assert held.reasons == free.reasons


async def test_a_strict_tool_whose_schema_cannot_be_enforced(engine: VllmEngine) -> None:
    wrong = Tool("f", "", {"type": "object", "not": {}}, as_text=True, strict=True)
    with pytest.raises(InvalidRequestError) as raised:
        await engine.count_tokens(ask(PLAIN_QUESTION, tools=(WEATHER, wrong)))
    assert raised.value.field == "tools[1].parameters_json"
    for mode in (ToolChoiceMode.NONE, ToolChoiceMode.AUTO):
        allowed = ("get_weather",) if mode is ToolChoiceMode.AUTO else ()
        choice = ToolChoice(mode, allowed_names=allowed)
        assert await engine.count_tokens(ask(PLAIN_QUESTION, tools=(WEATHER, wrong), tool_choice=choice))


async def test_only_allowed_tools_are_called_with_the_same_prompt(engine: VllmEngine) -> None:
    tools = (replace(WEATHER, description="The weather of a city. " * 20), CLOCK)
    first = await run(engine, ask(WEATHER_QUESTION, tools=tools, sampling=LONG))
    assert [name for name, _ in calls_of(first)] == ["get_weather"]
    clock = ToolChoice(allowed_names=("get_time",))
    refused = await run(engine, ask(WEATHER_QUESTION, tools=tools, tool_choice=clock, sampling=LONG))
    assert refused.calls == {}
    assert "get_weather" in refused.texts[0]
    assert refused.reasons == {0: FinishReason.STOP}
    held = replace(clock, mode=ToolChoiceMode.REQUIRED, parallel_calls=False)
    demanded = await run(engine, ask(WEATHER_QUESTION, tools=tools, tool_choice=held, sampling=LONG))
    assert calls_of(demanded) == [("get_time", {})]
    for answer in (refused, demanded):
        assert answer.usage is not None
        assert first.usage is not None
        assert answer.usage.prompt_tokens == first.usage.prompt_tokens
        assert answer.usage.cached_tokens >= answer.usage.prompt_tokens - 64
