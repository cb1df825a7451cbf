"""Adapters, priorities, salts, template variables and reasoning, on an engine that has them all."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from octet.config import ServerConfig
from octet.engine.types import (
    CandidateFinished,
    Delta,
    Deltas,
    FinishReason,
    GenerationRequest,
    LogprobsDelta,
    Message,
    OutputFormat,
    OutputKind,
    PromptAccepted,
    ReasoningDelta,
    ReasoningPart,
    Role,
    Sampling,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    Usage,
)
from octet.engine.vllm.serving.engine import VllmEngine
from octet.errors import InvalidRequestError, StartupError
from octet.server.server import Server
from octet.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from tests.e2e.checkpoints import THINKING_TEMPLATE
from tests.e2e.conftest import ENGINE_FLAGS

pytestmark = pytest.mark.asyncio(loop_scope="session")

GREEDY = Sampling(temperature=0.0, max_tokens=12, ignore_eos=True)
ONE = Sampling(temperature=0.0, max_tokens=1)

_ids = iter(range(10**6))


def ask(text: str = "What is the capital of France?", **fields: Any) -> GenerationRequest:
    fields.setdefault("sampling", GREEDY)
    fields.setdefault("messages", (Message(Role.USER, (TextPart(text),)),))
    return GenerationRequest(f"option-{next(_ids)}", **fields)


async def steps_of(engine: VllmEngine, request: GenerationRequest) -> tuple[PromptAccepted, list[Deltas]]:
    accepted, *steps = [event async for event in engine.generate(request)]
    assert isinstance(accepted, PromptAccepted)
    assert all(isinstance(step, Deltas) for step in steps)
    return accepted, [step for step in steps if isinstance(step, Deltas)]


def deltas_of(steps: list[Deltas]) -> list[Delta]:
    return [delta for step in steps for delta in step.deltas]


async def text_of(engine: VllmEngine, request: GenerationRequest) -> str:
    _, steps = await steps_of(engine, request)
    return "".join(delta.text for delta in deltas_of(steps) if isinstance(delta, TextDelta))


async def test_what_the_model_says_of_itself(versatile: VllmEngine) -> None:
    assert versatile.model.adapters == ("silent", "loud")
    assert versatile.model.takes_priorities
    assert versatile.model.pans_and_scans


async def test_adapters_change_the_answers_that_name_them(versatile: VllmEngine) -> None:
    plain = await text_of(versatile, ask())
    assert await text_of(versatile, ask(adapter="silent")) == plain
    assert await text_of(versatile, ask(adapter="loud")) != plain
    assert await text_of(versatile, ask()) == plain


async def test_an_adapter_that_cannot_be_loaded(versatile: VllmEngine, tmp_path: Path) -> None:
    from octet.engine.vllm.serving import adapters

    with pytest.raises(StartupError, match="--lora-modules: nothing cannot be loaded") as raised:
        # Two are there already.
        await adapters.load(versatile.llm, dict.fromkeys(("silent", "loud", "nothing"), str(tmp_path)))
    assert "\n" not in str(raised.value)


async def test_smaller_priorities_go_first(versatile: VllmEngine) -> None:
    """One request runs at a time; those that wait behind it are taken by priority, not as they came."""
    running = versatile.generate(ask(sampling=Sampling(temperature=0.0, ignore_eos=True)))
    assert isinstance(await anext(running), PromptAccepted)
    await anext(running)
    order: list[str] = []

    async def wait(name: str, priority: int, queued: asyncio.Event) -> None:
        async for event in versatile.generate(ask(priority=priority)):
            if isinstance(event, PromptAccepted):
                queued.set()
            elif any(isinstance(delta, CandidateFinished) for delta in event.deltas):
                order.append(name)

    waiting = []
    for name, priority in (("last", 5), ("second", 0), ("first", -5)):
        queued = asyncio.Event()
        waiting.append(asyncio.create_task(wait(name, priority, queued)))
        await queued.wait()
    while await versatile.num_unfinished() < 4:
        await anext(running)
    await running.aclose()
    await asyncio.gather(*waiting)
    assert order == ["first", "second", "last"]


async def test_only_the_same_salt_shares_cached_prefixes(versatile: VllmEngine) -> None:
    long = "Tell me about " + "the sea and the wind and " * 60

    async def cached(salt: str) -> int:
        _, steps = await steps_of(versatile, ask(long, cache_salt=salt, sampling=ONE))
        return steps[-1].usage.cached_tokens

    assert await cached("pepper") == 0
    assert await cached("pepper") > 0
    assert await cached("salt") == 0
    assert await cached("") == 0
    assert await cached("") > 0


async def test_template_variables_and_reasoning(versatile: VllmEngine) -> None:
    """The template lets the model think, or tells it that it has thought; nothing else decides here."""
    accepted, steps = await steps_of(versatile, ask(chat_template_args={"enable_thinking": True}))
    deltas = deltas_of(steps)
    assert deltas[-1] == CandidateFinished(0, FinishReason.LENGTH)
    assert deltas[:-1]
    assert all(isinstance(delta, ReasoningDelta) for delta in deltas[:-1])
    plain, steps = await steps_of(versatile, ask())
    assert all(isinstance(delta, TextDelta) for delta in deltas_of(steps)[:-1])
    assert plain.prompt_tokens == accepted.prompt_tokens + 1


async def thought_and_said(engine: VllmEngine, request: GenerationRequest) -> tuple[str, str, Usage]:
    _, steps = await steps_of(engine, request)
    deltas = deltas_of(steps)
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    return reasoning, text, steps[-1].usage


@pytest.mark.parametrize("most", [0, 1, 2, 5, 11])
async def test_a_limit_ends_what_the_model_thinks(versatile: VllmEngine, most: int) -> None:
    """This model never comes to an end by itself."""
    thinking = {"enable_thinking": True}
    sampling = replace(GREEDY, max_reasoning_tokens=most, logprobs=True)
    _, steps = await steps_of(versatile, ask(chat_template_args=thinking, sampling=sampling))
    tokens = [
        p.chosen.token_id
        for d in deltas_of(steps)
        if isinstance(d, LogprobsDelta)
        for p in d.positions
        if p.chosen
    ]
    end = versatile.llm.renderer.tokenizer.convert_tokens_to_ids("</think>")
    assert tokens.index(end) == most
    reasoning, text, usage = await thought_and_said(
        versatile, ask(chat_template_args=thinking, sampling=replace(sampling, logprobs=False))
    )
    assert bool(reasoning) == (most > 0)
    assert (usage.reasoning_tokens, usage.completion_tokens) == (most, 12)
    assert text or most


async def test_reasoning_is_counted(versatile: VllmEngine) -> None:
    _, _, usage = await thought_and_said(versatile, ask(chat_template_args={"enable_thinking": True}))
    assert (usage.reasoning_tokens, usage.completion_tokens) == (12, 12)
    _, _, usage = await thought_and_said(versatile, ask())
    assert (usage.reasoning_tokens, usage.completion_tokens) == (0, 12)
    several = Sampling(temperature=1.0, seed=1, n=3, max_tokens=5, ignore_eos=True, max_reasoning_tokens=2)
    asked = ask(chat_template_args={"enable_thinking": True}, sampling=several)
    _, _, usage = await thought_and_said(versatile, asked)
    assert (usage.reasoning_tokens, usage.completion_tokens) == (6, 15)


@pytest.mark.parametrize("taken", [1, 4, 9])
async def test_reasoning_that_was_cut_off_goes_on(versatile: VllmEngine, taken: int) -> None:
    """Within it, and behind it."""
    sampling = replace(GREEDY, max_tokens=14, max_reasoning_tokens=6)
    asked = ask(chat_template_args={"enable_thinking": True}, sampling=sampling)
    reasoning, text, usage = await thought_and_said(versatile, asked)
    assert usage.reasoning_tokens == 6
    first = replace(asked, request_id=f"first-{taken}", sampling=replace(sampling, max_tokens=taken))
    thought, said, _ = await thought_and_said(versatile, first)
    parts = (ReasoningPart(thought), *([TextPart(said)] if taken > 7 else []))
    rest = replace(
        asked,
        request_id=f"rest-{taken}",
        messages=(*asked.messages, Message(Role.ASSISTANT, parts)),
        sampling=replace(sampling, max_tokens=14 - taken),
    )
    more, further, usage = await thought_and_said(versatile, rest)
    assert (thought + more, said + further) == (reasoning, text)
    assert usage.reasoning_tokens == max(0, 6 - taken)


async def test_a_form_holds_behind_the_reasoning(versatile: VllmEngine) -> None:
    sampling = replace(GREEDY, ignore_eos=False, max_tokens=20, max_reasoning_tokens=3)
    form = OutputFormat(OutputKind.CHOICE, ("yellow", "green"))
    asked = ask(chat_template_args={"enable_thinking": True}, sampling=sampling, output_format=form)
    reasoning, text, _ = await thought_and_said(versatile, asked)
    assert reasoning
    assert text in ("yellow", "green")
    said = Message(Role.ASSISTANT, (ReasoningPart(reasoning), TextPart(text[:2])))
    rest = replace(asked, request_id="form-rest", messages=(*asked.messages, said))
    assert (await thought_and_said(versatile, rest))[:2] == ("", text[2:])


async def test_earlier_reasoning_goes_to_the_template(versatile: VllmEngine) -> None:
    parts = (ReasoningPart("hm"), TextPart("Paris."))
    asked = ask().messages[0]
    request = ask(messages=(asked, Message(Role.ASSISTANT, parts), asked), sampling=ONE)
    without = replace(
        request, request_id="without", messages=(asked, Message(Role.ASSISTANT, parts[1:]), asked)
    )
    thought, _ = await steps_of(versatile, request)
    silent, _ = await steps_of(versatile, without)
    assert thought.prompt_tokens > silent.prompt_tokens + 2


async def test_variables_that_the_template_does_not_read(versatile: VllmEngine) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await steps_of(versatile, ask(chat_template_args={"enable_thinking": True, "colour": "red"}))
    assert raised.value.field == "chat_template_args.colour"


async def test_octets_template_steps_in_where_the_models_own_has_no_tools(versatile: VllmEngine) -> None:
    tool = Tool("get_weather", "The weather of a city.", {"type": "object"})
    plain, _ = await steps_of(versatile, ask(sampling=ONE))
    offered, _ = await steps_of(versatile, ask(tools=(tool,), sampling=ONE))
    assert offered.prompt_tokens > plain.prompt_tokens + 20
    with pytest.raises(InvalidRequestError) as raised:
        await steps_of(versatile, ask(tools=(tool,), chat_template_args={"enable_thinking": True}))
    assert raised.value.field == "chat_template_args.enable_thinking"


@pytest.fixture(scope="module")
def thinking_with_tools(
    versatile: VllmEngine, thinking_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The same engine, with a template that has tools beside reasoning; prompts are rendered here."""
    from vllm.renderers import renderer_from_config

    from octet.engine.vllm.launch.args import parse_engine_args
    from octet.engine.vllm.serving.render import PromptRenderer

    template = tmp_path_factory.mktemp("template") / "tools.jinja"
    template.write_text("{{- tools | tojson if tools -}}" + THINKING_TEMPLATE)
    settings = parse_engine_args([str(thinking_checkpoint), *ENGINE_FLAGS, "--chat-template", str(template)])
    config = settings.engine.create_engine_config()
    vllms = renderer_from_config(config)
    own = (PromptRenderer(vllms, config.model_config, settings), versatile._vocabulary, versatile._usage)
    twin = VllmEngine(versatile.llm, versatile._launch, settings, *own, versatile.model)
    yield twin
    twin._checker.close()
    vllms.shutdown()


CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Lima"]}}, "required": ["city"]}


@pytest.mark.parametrize("thinks", [True, False])
async def test_calls_or_a_form_behind_the_reasoning(thinking_with_tools: VllmEngine, thinks: bool) -> None:
    end = thinking_with_tools.llm.renderer.tokenizer.convert_tokens_to_ids("</think>")
    form = OutputFormat(OutputKind.CHOICE, ("red", "green"))
    request = ask(
        "What is the weather in Oslo?",
        tools=(Tool("get_weather", "The weather.", CITY),),
        output_format=form,
        chat_template_args={"enable_thinking": thinks},
        # Whenever it may, the model ends its reasoning.
        sampling=Sampling(temperature=0.0, max_tokens=200, logit_bias={end: 100.0}),
    )
    _, steps = await steps_of(thinking_with_tools, request)
    deltas = deltas_of(steps)
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    calls = "".join(delta.arguments_json for delta in deltas if isinstance(delta, ToolCallDelta))
    assert (text in form.spec) != bool(calls)  # type: ignore[operator]
    reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
    assert isinstance(deltas[-1], CandidateFinished)
    assert deltas[-1].reason is reason


async def test_strict_tools_behind_the_reasoning(thinking_with_tools: VllmEngine) -> None:
    request = ask(
        "What is the weather in Oslo?",
        tools=(Tool("get_weather", "The weather of a city.", CITY, strict=True),),
        chat_template_args={"enable_thinking": False},
        sampling=Sampling(temperature=0.0, max_tokens=60),
    )
    _, steps = await steps_of(thinking_with_tools, request)
    for delta in deltas_of(steps):
        assert not isinstance(delta, ToolCallDelta) or "Oslo" not in delta.arguments_json


async def test_reasoning_over_a_channel(versatile: VllmEngine) -> None:
    """Streamed and whole, an adapter and a priority with it."""
    server = Server(ServerConfig(port=0))
    await server.start()
    try:
        await server.attach(versatile)
        request = chat_service_pb2.ChatRequest(adapter="silent", priority=-1, cache_salt="pepper")
        request.messages.add(role="ROLE_USER").parts.add(text="What is the capital of France?")
        request.chat_template_args["enable_thinking"] = True
        request.sampling.max_tokens = 8
        request.sampling.temperature = 0.0
        request.sampling.ignore_eos = True
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            models = model_service_pb2_grpc.ModelServiceStub(channel)
            [model] = (await models.ListModels(model_service_pb2.ListModelsRequest())).models
            chat = chat_service_pb2_grpc.ChatServiceStub(channel)
            whole = await chat.Chat(request)
            deltas = [delta async for chunk in chat.StreamChat(request) for delta in chunk.deltas]
    finally:
        await server.stop()
    assert list(model.adapters) == ["silent", "loud"]
    [part] = whole.candidates[0].message.parts
    assert part.WhichOneof("kind") == "reasoning"
    assert part.reasoning == "".join(delta.reasoning for delta in deltas)
    assert not any(delta.text or delta.tool_calls for delta in deltas)
