"""The engine protocol over the real vLLM: what goes in, what comes out, and what must never happen."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

import jsonschema
import pytest
from PIL import Image

from octet.engine.types import (
    CandidateFinished,
    FinishReason,
    GenerationRequest,
    ImagePart,
    Message,
    OutputFormat,
    OutputKind,
    PromptAccepted,
    Role,
    Sampling,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolChoice,
    ToolChoiceMode,
    Usage,
)
from octet.engine.vllm.serving.engine import VllmEngine
from octet.engine.vllm.serving.sampling import to_sampling_params
from octet.errors import ContextLengthError, InvalidRequestError
from tests.e2e.conftest import becomes_idle

pytestmark = pytest.mark.asyncio(loop_scope="session")

GREEDY = Sampling(temperature=0.0, max_tokens=16)
ENDLESS = Sampling(temperature=0.0, ignore_eos=True)
WEATHER = Tool(
    "get_weather",
    "The weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]},
)
CLOCK = Tool("get_time", "The time.", {})


@dataclass
class Answer:
    """Everything that a request gave, put together."""

    accepted: PromptAccepted | None = None
    texts: dict[int, str] = field(default_factory=dict)
    calls: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    reasons: dict[int, FinishReason] = field(default_factory=dict)
    usage: Usage | None = None
    events: int = 0


_ids = iter(range(10**6))


def ask(*parts: str | Image.Image, **fields: Any) -> GenerationRequest:
    content = tuple(TextPart(part) if isinstance(part, str) else ImagePart(part) for part in parts)
    fields.setdefault("sampling", GREEDY)
    return GenerationRequest(f"test-{next(_ids)}", (Message(Role.USER, content),), **fields)


async def run(engine: VllmEngine, request: GenerationRequest) -> Answer:
    answer = Answer()
    async for event in engine.generate(request):
        if isinstance(event, PromptAccepted):
            assert answer.accepted is None
            assert answer.events == 0
            answer.accepted = event
            continue
        answer.events += 1
        answer.usage = event.usage
        for delta in event.deltas:
            assert delta.index not in answer.reasons, "nothing follows a candidate's end"
            match delta:
                case TextDelta(index, text):
                    answer.texts[index] = answer.texts.get(index, "") + text
                case ToolCallDelta(index, call, call_id, name, arguments):
                    known = answer.calls.setdefault((index, call), [call_id, name, ""])
                    assert bool(call_id) == bool(name) == (known[2] == "" and known[0] == call_id)
                    known[2] += arguments
                case CandidateFinished(index, reason):
                    answer.reasons[index] = reason
    assert answer.accepted is not None
    return answer


async def test_model_info(engine: VllmEngine) -> None:
    model = engine.model
    assert model.takes_images
    assert model.max_images >= 1
    assert model.tokens_per_image >= 1
    assert model.quantization is not None
    assert model.quantization.scheme == "FP8_DYNAMIC"
    assert 1 <= model.output_token_limit <= model.context_window


async def test_text_streams_and_usage_counts(engine: VllmEngine) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=12, ignore_eos=True)
    answer = await run(engine, ask("What is the capital of France?", sampling=sampling))
    assert answer.reasons == {0: FinishReason.LENGTH}
    assert answer.events > 1
    assert answer.accepted is not None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == answer.accepted.prompt_tokens > 0
    assert answer.usage.completion_tokens == 12
    assert answer.usage.image_tokens == 0


async def test_pictures_are_counted(engine: VllmEngine) -> None:
    picture = Image.new("RGB", (90, 50), "red")
    answer = await run(engine, ask(picture, picture.copy(), "What do you see?"))
    assert answer.accepted is not None
    assert answer.accepted.image_tokens == 2 * engine.model.visual_tokens_per_image


async def test_pan_and_scan_shows_crops_as_well(engine: VllmEngine) -> None:
    wide = Image.new("RGB", (1024, 256), "red")
    one = engine.model.visual_tokens_per_image
    for wanted, tokens in ((True, 5 * one), (False, one), (None, one)):
        answer = await run(engine, ask(wide, "What do you see?", pan_and_scan=wanted))
        assert answer.accepted is not None
        assert answer.accepted.image_tokens == tokens


async def test_several_candidates(engine: VllmEngine) -> None:
    sampling = Sampling(n=3, max_tokens=5, temperature=1.0, seed=7, ignore_eos=True)
    answer = await run(engine, ask("Say something.", sampling=sampling))
    assert set(answer.reasons) == {0, 1, 2}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 15


async def test_a_seed_repeats_the_answer(engine: VllmEngine) -> None:
    sampling = Sampling(seed=3, max_tokens=12, temperature=1.0, ignore_eos=True)
    first, second = [await run(engine, ask("Say something.", sampling=sampling)) for _ in range(2)]
    assert first.texts == second.texts


async def test_a_seed_lets_a_prompt_be_computed_in_parts(engine: VllmEngine) -> None:
    """vLLM's own way to take back what it draws for parts of prompts would end the engine."""
    streaming = engine.generate(ask("Count.", sampling=Sampling(max_tokens=1500, ignore_eos=True)))
    for _ in range(3):
        await anext(streaming)
    sampling = Sampling(seed=3, max_tokens=8, temperature=1.0, ignore_eos=True)
    long = " ".join(f"house {number}" for number in range(400))
    answer = await run(engine, ask(long, sampling=sampling))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 1000
    assert answer.usage.completion_tokens == 8
    await streaming.aclose()


async def test_stop_strings_never_leak(engine: VllmEngine) -> None:
    plain = Sampling(temperature=0.0, max_tokens=24, ignore_eos=True)
    whole = (await run(engine, ask("Tell me a story.", sampling=plain))).texts[0]
    stop = whole[len(whole) // 2 :][:3]
    stopped = Sampling(temperature=0.0, max_tokens=24, ignore_eos=True, stop=(stop,))
    answer = await run(engine, ask("Tell me a story.", sampling=stopped))
    assert answer.texts.get(0, "") == whole[: whole.index(stop)]
    assert answer.reasons == {0: FinishReason.STOP}


async def test_unset_max_tokens_take_what_the_context_leaves(engine: VllmEngine) -> None:
    one = Sampling(temperature=0.0, max_tokens=1)
    short, longer = [(await run(engine, ask("a " * n, sampling=one))).accepted for n in (10, 110)]
    assert short is not None
    assert longer is not None
    a_hundred = longer.prompt_tokens - short.prompt_tokens
    words = 100 * (engine.model.context_window - short.prompt_tokens) // a_hundred - 40
    answer = await run(engine, ask("a " * words, sampling=ENDLESS))
    assert answer.usage is not None
    room = engine.model.context_window - answer.usage.prompt_tokens
    assert 0 < room < engine.model.output_token_limit
    assert answer.usage.completion_tokens == room
    assert answer.reasons == {0: FinishReason.LENGTH}


async def test_unset_max_tokens_stop_at_the_output_limit(engine: VllmEngine) -> None:
    limit = engine.model.output_token_limit
    params = to_sampling_params(
        ask("Go on.", sampling=Sampling()),
        constraint=None,
        room=limit + 100,
        output_token_limit=limit,
        defaults={},
    )
    assert params.max_tokens == limit


async def test_a_prompt_longer_than_the_context(engine: VllmEngine) -> None:
    window = engine.model.context_window
    for text in ("hello " * window, "x" * 40 * window):
        with pytest.raises(ContextLengthError, match=str(window)) as raised:
            await run(engine, ask(text))
        assert raised.value.field == "messages"
    assert await engine.num_unfinished() == 0


async def test_pictures_that_fill_the_context(engine: VllmEngine) -> None:
    """So many as the model is said to take fit, and are answered; one more does not."""
    pictures = [Image.new("RGB", (8, 8))] * engine.model.max_images
    one = Sampling(temperature=0.0, max_tokens=1)
    answer = await run(engine, ask(*pictures, sampling=one))
    assert answer.accepted is not None
    assert answer.accepted == await engine.count_tokens(ask(*pictures, sampling=one))
    assert answer.accepted.image_tokens == len(pictures) * engine.model.visual_tokens_per_image
    for refused in (
        run(engine, ask(*pictures, pictures[0])),
        engine.count_tokens(ask(*pictures, pictures[0])),
    ):
        with pytest.raises(ContextLengthError, match=str(engine.model.context_window)):
            await refused


async def test_a_picture_adds_what_the_model_says(engine: VllmEngine) -> None:
    text = (await engine.count_tokens(ask("x"))).prompt_tokens + 1
    wide = Image.new("RGB", (2048, 512))
    for wanted in (False, True, None):
        shown = await engine.count_tokens(ask("x", wide, "x", pan_and_scan=wanted))
        assert shown.prompt_tokens - text == engine.model.image_cost(wanted)


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(temperature=-1.0), "sampling.temperature"),
        (Sampling(stop_token_ids=(10**7,)), "sampling.stop_token_ids"),
        (Sampling(min_tokens=9, max_tokens=3), "sampling.min_tokens"),
    ],
)
async def test_wrong_sampling_names_its_field(engine: VllmEngine, sampling: Sampling, field: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await run(engine, ask("Hello", sampling=sampling))
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("constraint", "field"),
    [
        (OutputFormat(OutputKind.JSON_SCHEMA, {"type": "nothing"}), "output_format.json_schema"),
        (OutputFormat(OutputKind.REGEX, "(unclosed"), "output_format.regex"),
        (OutputFormat(OutputKind.GRAMMAR, "root ::= missing"), "output_format.grammar"),
    ],
)
async def test_constraints_that_do_not_compile(
    engine: VllmEngine, constraint: OutputFormat, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await run(engine, ask("Hello", output_format=constraint))
    assert raised.value.field == field
    assert "\n" not in raised.value.message
    assert await engine.num_unfinished() == 0


async def test_constraints_hold(engine: VllmEngine) -> None:
    choice = OutputFormat(OutputKind.CHOICE, ("red", "green"))
    assert (await run(engine, ask("Colour?", output_format=choice))).texts[0] in ("red", "green")
    digits = OutputFormat(OutputKind.REGEX, "[0-9]{3}")
    assert (await run(engine, ask("Number?", output_format=digits))).texts[0].isdigit()


@pytest.mark.parametrize(
    "choice", [ToolChoice(ToolChoiceMode.REQUIRED), ToolChoice(ToolChoiceMode.NAMED, "get_weather")]
)
async def test_demanded_calls_are_valid(engine: VllmEngine, choice: ToolChoice) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=200)
    request = ask(
        "What is the weather in Oslo?", tools=(WEATHER, CLOCK), tool_choice=choice, sampling=sampling
    )
    answer = await run(engine, request)
    assert answer.texts == {}
    assert answer.reasons == {0: FinishReason.TOOL_CALLS}
    schemas = {tool.name: tool.parameters for tool in (WEATHER, CLOCK)}
    for _, name, arguments in answer.calls.values():
        jsonschema.validate(json.loads(arguments), dict(schemas[name]))
    if choice.mode is ToolChoiceMode.NAMED:
        assert [name for _, name, _ in answer.calls.values()] == ["get_weather"]


@pytest.mark.parametrize("stop", [{"stop": ('"city"',)}, {"stop": ("Oslo", '": "')}])
async def test_a_stop_string_within_a_call_leaves_none(engine: VllmEngine, stop: dict[str, Any]) -> None:
    choice = ToolChoice(ToolChoiceMode.NAMED, "get_weather")
    sampling = Sampling(temperature=0.0, max_tokens=200, include_stop_string=True, **stop)
    request = ask("What is the weather in Oslo?", tools=(WEATHER,), tool_choice=choice, sampling=sampling)
    answer = await run(engine, request)
    assert answer.calls == {}
    assert answer.texts[0].endswith(stop["stop"])
    assert answer.reasons == {0: FinishReason.STOP}


async def test_a_stop_string_behind_a_call(engine: VllmEngine) -> None:
    choice = ToolChoice(ToolChoiceMode.NAMED, "get_weather")
    sampling = Sampling(temperature=0.0, max_tokens=200, stop=("}}",))
    request = ask("What is the weather in Oslo?", tools=(WEATHER,), tool_choice=choice, sampling=sampling)
    request = replace(request, sampling=replace(sampling, include_stop_string=True))
    answer = await run(engine, request)
    assert [json.loads(arguments).keys() for _, _, arguments in answer.calls.values()] == [{"city"}]
    assert answer.texts == {}
    assert answer.reasons == {0: FinishReason.TOOL_CALLS}


async def test_a_call_that_is_too_long(engine: VllmEngine) -> None:
    """No answer that ends within a call says that it ended with calls; of arguments, it has what has come."""
    choice = ToolChoice(ToolChoiceMode.NAMED, "get_weather")
    question, within = "What is the weather in Oslo?", 0
    for length in range(2, 26, 3):
        sampling = Sampling(temperature=0.0, max_tokens=length)
        answer = await run(engine, ask(question, tools=(WEATHER,), tool_choice=choice, sampling=sampling))
        if answer.reasons == {0: FinishReason.LENGTH}:
            assert bool(answer.calls) != bool(answer.texts)
            within += bool(answer.calls)
        else:
            assert answer.reasons == {0: FinishReason.TOOL_CALLS}
            assert json.loads(answer.calls[0, 0][2])
    assert within


async def test_a_single_demanded_call(engine: VllmEngine) -> None:
    choice = ToolChoice(ToolChoiceMode.REQUIRED, parallel_calls=False)
    sampling = Sampling(temperature=1.0, seed=1, n=3, max_tokens=200)
    question = "What is the weather in Oslo? What is the time?"
    answer = await run(engine, ask(question, tools=(WEATHER, CLOCK), tool_choice=choice, sampling=sampling))
    assert sorted(answer.calls) == [(0, 0), (1, 0), (2, 0)]
    assert answer.texts == {}
    assert set(answer.reasons.values()) == {FinishReason.TOOL_CALLS}


@pytest.mark.parametrize("n", [1, 2])
async def test_the_first_call_ends_the_answer(engine: VllmEngine, n: int) -> None:
    """The model would go on with more calls; the engine stops nevertheless."""
    sampling = Sampling(temperature=0.01, seed=2, n=n, max_tokens=200)
    question = "What is the weather in Oslo? What is the time?"
    request = ask(question, tools=(WEATHER, CLOCK), sampling=sampling)
    many = await run(engine, request)
    assert len(many.calls) > n, "it would have gone on"
    one_each = ToolChoice(parallel_calls=False)
    one = await run(engine, replace(request, request_id=f"{request.request_id}-one", tool_choice=one_each))
    assert sorted(one.calls) == [(index, 0) for index in range(n)]
    assert one.texts == {}
    assert set(one.reasons.values()) == {FinishReason.TOOL_CALLS}
    assert one.usage is not None
    assert many.usage is not None
    assert one.usage.completion_tokens < many.usage.completion_tokens
    await becomes_idle(engine)


async def test_a_tool_schema_that_does_not_compile(engine: VllmEngine) -> None:
    broken = Tool("broken", "", {"type": "object", "properties": {"a": {"type": "nothing"}}})
    with pytest.raises(InvalidRequestError) as raised:
        await run(engine, ask("Go", tools=(broken,), tool_choice=ToolChoice(ToolChoiceMode.REQUIRED)))
    assert raised.value.field == "tools[0].parameters"


async def test_no_tools_are_offered_when_none_may_be_called(engine: VllmEngine) -> None:
    without = await run(engine, ask("Hello"))
    offered = await run(engine, ask("Hello", tools=(WEATHER,)))
    none = await run(engine, ask("Hello", tools=(WEATHER,), tool_choice=ToolChoice(ToolChoiceMode.NONE)))
    assert without.usage is not None
    assert offered.usage is not None
    assert none.usage is not None
    assert none.usage.prompt_tokens == without.usage.prompt_tokens < offered.usage.prompt_tokens


async def test_a_cancelled_task_stops_the_engine(engine: VllmEngine) -> None:
    async def consume(started: asyncio.Event) -> None:
        async for event in engine.generate(ask("Go on.", sampling=ENDLESS)):
            if not isinstance(event, PromptAccepted):
                started.set()

    started = [asyncio.Event() for _ in range(3)]
    tasks = [asyncio.create_task(consume(event)) for event in started]
    for event in started:
        await asyncio.wait_for(event.wait(), 30)
    assert await engine.num_unfinished() == 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await becomes_idle(engine)


async def test_a_closed_generator_stops_the_engine(engine: VllmEngine) -> None:
    for events in (1, 3):
        stream = engine.generate(ask("Go on.", sampling=ENDLESS))
        for _ in range(events):
            await anext(stream)
        assert await engine.num_unfinished() == 1
        await stream.aclose()
        await becomes_idle(engine)


@pytest.mark.parametrize("n", [1, 2])
async def test_pictures_that_the_engine_does_not_have_are_sent_again(engine: VllmEngine, n: int) -> None:
    """As where the first request with a picture is cancelled between its preparation and the engine."""
    pictures = [Image.new("RGB", (70 + i, 60 + n), "green") for i in range(2)]
    sampling = Sampling(n=n, temperature=1.0, seed=3, max_tokens=8)
    await engine._renderer.render(ask(*pictures, "What is this?"))
    answer = await run(engine, ask(*pictures, "What is this?", sampling=sampling))
    known = await run(engine, ask(*pictures, "What is this?", sampling=sampling))
    assert answer.texts == known.texts
    assert answer.accepted == known.accepted
    assert len(answer.reasons) == n
    await becomes_idle(engine)


async def test_no_cancelled_request_costs_another_its_pictures(engine: VllmEngine) -> None:
    async def ask_about(size: int) -> Answer:
        return await run(engine, ask(Image.new("RGB", (size, 40), "blue"), "What is this?"))

    draw = random.Random(5)
    for size in range(50, 62):
        tasks = [asyncio.create_task(ask_about(size)) for _ in range(6)]
        cancelled = draw.sample(tasks, 3)
        for task in cancelled:
            # As many turns of the event loop as leave it anywhere between its beginning and its end.
            for _ in range(draw.randrange(40)):
                await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [r for task, r in zip(tasks, results, strict=True) if task not in cancelled]
        assert all(isinstance(result, Answer) for result in kept), kept
    await becomes_idle(engine)


async def test_rendering_leaves_the_event_loop_free(engine: VllmEngine) -> None:
    """While a large picture is prepared, a task that wants to run every 10 ms runs again and again."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    start = time.monotonic()
    stream = engine.generate(ask(Image.new("RGB", (6000, 4000), "green"), "What is it?"))
    await anext(stream)
    prepared = time.monotonic() - start
    ticking.cancel()
    await stream.aclose()
    assert max(late) < prepared / 2


async def test_health(engine: VllmEngine) -> None:
    await engine.check_health()
