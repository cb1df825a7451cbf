"""Sampling, log probabilities and tokens over a real channel, by the real vLLM."""

import io
import itertools
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from PIL import Image

from octet.engine.vllm.serving.engine import VllmEngine
from octet.translate.chunks import ChunkAccumulator
from octet.v1 import chat_service_pb2 as pb
from octet.v1 import chat_service_pb2_grpc, content_pb2, model_service_pb2, model_service_pb2_grpc, tool_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Two ways to the same number may round differently.
CLOSE = 2e-2


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def channel(in_process: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(in_process) as channel:
        yield channel


@pytest.fixture(scope="module")
def chat(channel: grpc.aio.Channel) -> chat_service_pb2_grpc.ChatServiceStub:
    return chat_service_pb2_grpc.ChatServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel: grpc.aio.Channel) -> model_service_pb2_grpc.ModelServiceStub:
    return model_service_pb2_grpc.ModelServiceStub(channel)


def ask(said: str = "What is the capital of France?", **sampling: Any) -> pb.ChatRequest:
    turn = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text=said)])
    sampling.setdefault("temperature", 0)
    sampling.setdefault("max_tokens", 16)
    return pb.ChatRequest(messages=[turn], sampling=pb.SamplingParams(**sampling))


def picture(colour: str) -> content_pb2.Part:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "PNG")
    return content_pb2.Part(image=content_pb2.Image(data=file.getvalue()))


def text(candidate: pb.Candidate) -> str:
    return "".join(part.text for part in candidate.message.parts)


async def first(chat: Any, request: pb.ChatRequest) -> pb.Candidate:
    response = await chat.Chat(request)
    return response.candidates[0]  # type: ignore[no-any-return]


async def streamed(chat: Any, request: pb.ChatRequest) -> pb.ChatResponse:
    answer = ChunkAccumulator()
    async for chunk in chat.StreamChat(request):
        answer.add(chunk)
    return answer.response()


def ids(positions: Any) -> list[tuple[int, ...]]:
    return [(p.chosen.token_id, *(token.token_id for token in p.top)) for p in positions]


def values(positions: Any) -> list[float]:
    return [token.logprob for p in positions for token in (p.chosen, *p.top)]


def same_positions(left: Any, right: Any) -> None:
    assert ids(left) == ids(right)
    assert values(left) == pytest.approx(values(right), abs=CLOSE)


def without_what_is_new(response: pb.ChatResponse) -> pb.ChatResponse:
    """The answer without what differs each time: when and as what it was asked, what the cache held."""
    same = pb.ChatResponse()
    same.CopyFrom(response)
    for name in ("id", "create_time", "prompt_logprobs"):
        same.ClearField(name)
    same.usage.cached_tokens = 0
    for candidate in same.candidates:
        candidate.ClearField("logprobs")
        for part in candidate.message.parts:
            if part.HasField("tool_call"):
                part.tool_call.ClearField("id")
    return same


def weather_tool() -> tool_pb2.Tool:
    parameters = Struct()
    city = {"type": "string", "maxLength": 12}
    parameters.update({"type": "object", "properties": {"city": city}, "required": ["city"]})
    return tool_pb2.Tool(name="get_weather", description="Get the weather in a city.", parameters=parameters)


REQUESTS = {
    "greedy": ask(logprobs=True, top_logprobs=3, prompt_logprobs=2),
    "seeded": ask("Tell me a story.", temperature=1, seed=11, max_tokens=24, logprobs=True),
    "several": ask(
        "Say something.", temperature=1, seed=5, n=3, logprobs=True, top_logprobs=1, prompt_logprobs=0
    ),
    "stopped": ask("Tell me a story.", max_tokens=40, stop=["."], logprobs=True),
}
REQUESTS["called"] = ask("What is the weather in Oslo?", max_tokens=80, logprobs=True)
REQUESTS["called"].tools.append(weather_tool())
REQUESTS["called"].tool_choice.mode = tool_pb2.ToolChoice.MODE_REQUIRED
REQUESTS["held"] = ask("Name a colour.", temperature=1, seed=3, max_tokens=40, logprobs=True)
REQUESTS["held"].output_format.regex = "[a-z]{3,9} [0-9]{2}"


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_stream_adds_up_to_the_whole_answer(chat: Any, name: str) -> None:
    # Once before, so that both find the prompt in the cache.
    await chat.Chat(REQUESTS[name])
    whole, added_up = await chat.Chat(REQUESTS[name]), await streamed(chat, REQUESTS[name])
    assert without_what_is_new(whole) == without_what_is_new(added_up)
    for left, right in zip(whole.candidates, added_up.candidates, strict=True):
        assert left.logprobs
        same_positions(left.logprobs, right.logprobs)
    same_positions(whole.prompt_logprobs[1:], added_up.prompt_logprobs[1:])
    asked = REQUESTS[name].sampling.HasField("prompt_logprobs")
    assert len(whole.prompt_logprobs) == whole.usage.prompt_tokens * asked
    tokens = sum(len(candidate.logprobs) for candidate in whole.candidates)
    assert whole.usage.completion_tokens == tokens


async def test_seeds_reproduce_every_candidate(chat: Any) -> None:
    request = ask("Say something.", temperature=1, seed=21, n=4, max_tokens=12, ignore_eos=True)
    await chat.Chat(request)
    one, other = [await chat.Chat(request) for _ in range(2)]
    texts = [text(candidate) for candidate in one.candidates]
    assert texts == [text(candidate) for candidate in other.candidates]
    assert len(set(texts)) > 1


async def test_bytes_add_up_to_the_text(chat: Any) -> None:
    candidate = await first(chat, ask(logprobs=True, ignore_eos=True, skip_special_tokens=False))
    data = b"".join(position.chosen.data for position in candidate.logprobs)
    assert data.decode() == text(candidate)
    for position in candidate.logprobs:
        assert position.chosen.token == position.chosen.data.decode(errors="replace")
        assert position.chosen.logprob <= 0
        assert position.chosen.rank == 1


async def test_tokens_that_hold_parts_of_characters(chat: Any) -> None:
    request = ask(logprobs=True, top_logprobs=2)
    request.output_format.choice.values.append("é€")
    candidate = await first(chat, request)
    assert text(candidate) == "é€"
    parts = [position.chosen for position in candidate.logprobs]
    assert b"".join(token.data for token in parts).startswith("é€".encode())
    assert len(parts) > len("é€")
    assert parts[0].token == "\ufffd"
    assert len(parts[0].data) == 1


async def test_top_tokens_are_ranked(chat: Any) -> None:
    candidate = await first(chat, ask("Say something.", temperature=1, seed=2, logprobs=True, top_logprobs=5))
    for position in candidate.logprobs:
        assert [token.rank for token in position.top] == [1, 2, 3, 4, 5]
        logprobs = [token.logprob for token in position.top]
        assert logprobs == sorted(logprobs, reverse=True)
        if position.chosen.rank <= 5:
            assert position.chosen in position.top


@pytest.mark.parametrize("with_picture", [False, True])
async def test_prompt_logprobs(chat: Any, with_picture: bool) -> None:
    request = ask(prompt_logprobs=2, max_tokens=4)
    if with_picture:
        request.messages[0].parts.append(picture("purple"))
    chunks = [chunk async for chunk in chat.StreamChat(request)]
    assert [bool(chunk.prompt_logprobs) for chunk in chunks[1:]] == [True] + [False] * (len(chunks) - 2)
    positions = chunks[1].prompt_logprobs
    assert chunks[1].deltas
    assert len(positions) == chunks[0].usage.prompt_tokens
    assert not positions[0].HasField("chosen")
    assert all(len(position.top) == 2 for position in positions[1:])
    said = b"".join(position.chosen.data for position in positions[1:])
    assert b"What is the capital of France?" in said


async def test_too_many_prompt_logprobs(chat: Any, models: Any) -> None:
    long = "a " * 700
    await chat.Chat(ask(long, prompt_logprobs=0, max_tokens=1))
    with pytest.raises(grpc.aio.AioRpcError, match="more than the limit of 65536") as raised:
        await chat.Chat(ask(long, prompt_logprobs=20, n=16, temperature=1, max_tokens=1))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_logit_bias(chat: Any) -> None:
    plain = await first(chat, ask(logprobs=True, top_logprobs=2, max_tokens=1))
    best, second = plain.logprobs[0].top
    raised = await first(chat, ask(logit_bias={second.token_id: 100}, logprobs=True, max_tokens=3))
    assert {position.chosen.token_id for position in raised.logprobs} == {second.token_id}
    lowered = await first(chat, ask(logit_bias={best.token_id: -100}, logprobs=True, max_tokens=1))
    assert lowered.logprobs[0].chosen.token_id == second.token_id


async def test_allowed_tokens(chat: Any, models: Any) -> None:
    tokens = await models.Tokenize(model_service_pb2.TokenizeRequest(text="abc", add_special_tokens=False))
    request = ask(allowed_token_ids=tokens.token_ids, temperature=2, seed=1, max_tokens=12, logprobs=True)
    candidate = await first(chat, request)
    assert {p.chosen.token_id for p in candidate.logprobs} <= set(tokens.token_ids)


async def test_bad_words(chat: Any) -> None:
    plain = text(await first(chat, ask()))
    word = max(plain.split(), key=len).strip(".,!?")
    held = text(await first(chat, ask(bad_words=[word])))
    assert word in plain
    assert word not in held


async def test_stop_strings_over_tokens_never_leak(chat: Any) -> None:
    """Every stop string that spans two tokens of an answer, in turn."""
    plain = ask("Tell me a story.", max_tokens=12, ignore_eos=True, logprobs=True)
    candidate = await first(chat, plain)
    whole, pieces = text(candidate), [position.chosen.token for position in candidate.logprobs]
    assert "".join(pieces) == whole
    for left, right in itertools.pairwise(pieces[1:9]):
        stop = left[-2:] + right[:2]
        for include in (False, True):
            request = ask("Tell me a story.", max_tokens=12, ignore_eos=True, stop=[stop])
            request.sampling.include_stop_string = include
            end = whole.index(stop) + len(stop) * include
            said = ""
            async for chunk in chat.StreamChat(request):
                said += "".join(delta.text for delta in chunk.deltas)
                assert whole[:end].startswith(said)
            assert said == whole[:end]


STOPS: dict[str, tuple[dict[str, Any], str | int | None]] = {
    "the end of the turn": ({}, "<end_of_turn>"),
    "a stop string": ({"stop": ["xyz", "Par", "is."]}, "Par"),
    "one that is in the text": ({"stop": ["Paris"], "include_stop_string": True}, "Paris"),
    "one that begins before another": ({"stop": ["is Paris.", " is"]}, " is"),
    "max_tokens": ({"max_tokens": 2}, None),
    "max_tokens before a stop string": ({"max_tokens": 2, "stop": ["Paris"]}, None),
    "max_tokens past the end": ({"max_tokens": 60, "ignore_eos": True}, None),
}


def stop_of(candidate: pb.Candidate) -> str | int | None:
    which = candidate.WhichOneof("stop")
    return getattr(candidate, which) if which else None


@pytest.mark.parametrize("name", STOPS)
async def test_what_ended_an_answer(chat: Any, models: Any, name: str) -> None:
    sampling, stop = STOPS[name]
    if stop == "<end_of_turn>":
        named = model_service_pb2.TokenizeRequest(
            text=stop, add_special_tokens=False, parse_special_tokens=True
        )
        [stop] = (await models.Tokenize(named)).token_ids
    request = ask(**sampling)
    candidate = await first(chat, request)
    ended = pb.FINISH_REASON_LENGTH if stop is None else pb.FINISH_REASON_STOP
    assert (stop_of(candidate), candidate.finish_reason) == (stop, ended)
    assert (await streamed(chat, request)).candidates[0] == candidate


async def test_a_stop_token_ended_an_answer(chat: Any) -> None:
    plain = await first(chat, ask(logprobs=True))
    written = [position.chosen.token_id for position in plain.logprobs]
    stop = written[3]
    for include in (False, True):
        stopped = await first(chat, ask(stop_token_ids=[1, stop], include_stop_string=include))
        assert (stop_of(stopped), stopped.finish_reason) == (stop, pb.FINISH_REASON_STOP)


async def test_each_candidate_says_what_ended_it(chat: Any) -> None:
    sampling = {"temperature": 1, "seed": 5, "n": 6, "max_tokens": 24}
    response = await chat.Chat(ask("Tell me a story.", stop=["a", "e"], **sampling))
    for candidate in response.candidates:
        reason, stop = candidate.finish_reason, stop_of(candidate)
        assert (stop is None) == (reason == pb.FINISH_REASON_LENGTH)
        assert "a" not in text(candidate)
        assert "e" not in text(candidate)
    assert {"a", "e"} & {stop_of(candidate) for candidate in response.candidates}


async def test_what_ended_an_answer_of_calls(chat: Any) -> None:
    request = ask("What is the weather in Oslo?", max_tokens=80)
    request.tools.append(weather_tool())
    request.tool_choice.mode = tool_pb2.ToolChoice.MODE_REQUIRED
    turn = await first(chat, request)
    assert turn.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert turn.WhichOneof("stop") == "stop_token_id"
    request.sampling.stop.append("}}")
    behind = await first(chat, request)
    assert (stop_of(behind), behind.finish_reason) == ("}}", pb.FINISH_REASON_STOP)
    request.sampling.include_stop_string = True
    within = await first(chat, request)
    assert (stop_of(within), within.finish_reason) == ("}}", pb.FINISH_REASON_TOOL_CALLS)


async def test_special_tokens_in_the_text(chat: Any, models: Any) -> None:
    tokens = await models.Tokenize(model_service_pb2.TokenizeRequest(text="a"))
    special = tokens.token_ids[0]
    forced = {"logit_bias": {special: 100}, "max_tokens": 1, "ignore_eos": True}
    assert text(await first(chat, ask(**forced))) == ""
    shown = await first(chat, ask(skip_special_tokens=False, **forced))
    assert text(shown) == tokens.tokens[0] != ""


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"allowed_token_ids": [20], "bad_words": ["#"]}, None),
        ({"bad_words": [letter * 256 for letter in "éüöä"]}, "sampling.bad_words"),
        ({"prompt_logprobs": 20, "max_tokens": 1}, None),
    ],
)
async def test_what_only_the_tokenizer_knows(chat: Any, sampling: dict[str, Any], field: str | None) -> None:
    request = ask(**sampling)
    if field is None:
        await chat.Chat(request)
        return
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await chat.Chat(request)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(raised.value.details())


async def test_nothing_left_to_be_sampled(chat: Any, models: Any) -> None:
    tokens = await models.Tokenize(model_service_pb2.TokenizeRequest(text="ab", add_special_tokens=False))
    pieces = list(tokens.tokens)
    for sampling in (
        {"allowed_token_ids": tokens.token_ids, "bad_words": pieces},
        {"allowed_token_ids": [1], "min_tokens": 2},
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="leaves nothing to be sampled") as raised:
            await chat.Chat(ask(**sampling))
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    allowed = ask(allowed_token_ids=[*tokens.token_ids, 20], bad_words=pieces, max_tokens=3)
    allowed.sampling.logprobs = True
    candidate = await first(chat, allowed)
    assert {position.chosen.token_id for position in candidate.logprobs} == {20}


async def test_counted_tokens_are_those_of_the_answer(chat: Any, models: Any) -> None:
    request = ask()
    request.messages[0].parts.extend([picture("teal"), picture("navy")])
    request.tools.append(weather_tool())
    counted = await models.CountTokens(model_service_pb2.CountTokensRequest(request=request))
    response = await chat.Chat(request)
    assert counted.prompt_tokens == response.usage.prompt_tokens
    assert counted.image_tokens == response.usage.image_tokens > 0


async def test_pictures_of_refused_requests_can_be_sent_again(chat: Any) -> None:
    request = ask(max_tokens=2)
    request.messages[0].parts.append(picture("olive"))
    request.output_format.regex = "(unclosed"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await chat.Chat(request)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    request.ClearField("output_format")
    assert (await chat.Chat(request)).candidates


async def test_tokens_and_back(engine: VllmEngine, models: Any) -> None:
    said = "Hello, wörld! 你好 \n\n x"
    tokens = await models.Tokenize(model_service_pb2.TokenizeRequest(text=said))
    assert len(tokens.tokens) == len(tokens.token_ids)
    detokenize = model_service_pb2.DetokenizeRequest(token_ids=tokens.token_ids)
    assert (await models.Detokenize(detokenize)).text.endswith(said)
    detokenize.skip_special_tokens = True
    assert (await models.Detokenize(detokenize)).text == said
    plain = model_service_pb2.TokenizeRequest(text=said, add_special_tokens=False)
    assert list((await models.Tokenize(plain)).token_ids) == list(tokens.token_ids)[1:]
    every = model_service_pb2.DetokenizeRequest(token_ids=range(engine.model.vocabulary_size))
    assert (await models.Detokenize(every)).text


def formatted(**form: Any) -> pb.ChatRequest:
    request = ask("Answer.", temperature=1, seed=9, max_tokens=40, logprobs=True)
    request.output_format.CopyFrom(pb.OutputFormat(**form))
    return request


def schema(**fields: Any) -> Struct:
    message = Struct()
    message.update(fields)
    return message


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"\d{3}-[x-z]{1,3}-é"}, r"\d{3}-[x-z]{1,3}-é"),
        ({"grammar": 'root ::= ("yes" | "no") " " [0-9]'}, "(yes|no) [0-9]"),
        ({"choice": pb.ChoiceFormat(values=["a.c", "[x]"])}, r"a\.c|\[x\]"),
        ({"json_schema": schema(enum=["x", 7, None])}, '"x"|7|null'),
        ({"json_schema": schema(type="boolean")}, "true|false"),
        ({"json_schema": schema(type="integer", multipleOf=3, minimum=3, maximum=9)}, "3|6|9"),
        ({"json_schema": schema(type="string", pattern="^[a-z]+$", maxLength=3)}, '"[a-z]{1,3}"'),
        ({"json_schema": schema(type="string", format="date", pattern="^2025")}, '"2025-[0-9-]{5}"'),
        (
            {"json_schema": schema(allOf=[{"type": "string", "maxLength": 3}, {"pattern": "^[xy]{2,}$"}])},
            '"[xy]{2,3}"',
        ),
        ({"json_schema": schema(type="integer", format="int64", minimum=7, maximum=7)}, "7"),
        (
            {
                "json_schema_text": '{"properties": {"z": {"const": 1}, "a": {"const": 2}}, '
                '"type": "object", "required": ["a", "z"], "additionalProperties": false}'
            },
            r'\{"z":1,"a":2\}',
        ),
        ({"regex": r"(?i)yes"}, "(?i)yes"),
        ({"regex": r"\p{L}{2}"}, r"\w{2}"),
        ({"regex": "^[ab]{2}$"}, "[ab]{2}"),
        ({"grammar": 'root ::= "(" root ")" | "x"'}, r"\(*x\)*"),
    ],
)
async def test_an_answer_has_the_form_that_was_asked_for(
    chat: Any, form: dict[str, Any], pattern: str
) -> None:
    for seed in range(3):
        request = formatted(**form)
        request.sampling.seed = seed
        whole = await first(chat, request)
        assert whole.finish_reason == pb.FINISH_REASON_STOP
        assert re.fullmatch(pattern, text(whole))
        data = b"".join(position.chosen.data for position in whole.logprobs)
        assert data.startswith(text(whole).encode())


@pytest.mark.parametrize(
    ("form", "field", "sentence"),
    [
        ({"regex": "(unclosed"}, "regex", ""),
        ({"regex": "a\x00b"}, "regex", "NUL"),
        ({"regex": "\\"}, "regex", "ends with a backslash"),
        ({"regex": "(.*)*" * 1600}, "regex", "takes more time or memory"),
        ({"grammar": "root ::= missing"}, "grammar", "line 1, column 10"),
        ({"grammar": "no grammar"}, "grammar", "line 1, column 1"),
        ({"grammar": "root ::= root"}, "grammar", "never comes to an end"),
        ({"grammar": 'root ::= e "#"\ne ::= e e e | e e | [a-z ]'}, "grammar", "takes too much time"),
        (
            {"json_schema": schema(properties={"a": {"not": {"const": 5}}})},
            "json_schema",
            "(at /properties/a/not)",
        ),
        (
            {"json_schema": schema(properties={"a": {"type": "string", "pattern": "(?=b)"}})},
            "json_schema",
            "(at /properties/a)",
        ),
        ({"json_schema": schema(type="array", contains={"const": 1})}, "json_schema", "contains"),
        ({"json_schema_text": '{"if": {}, "then": {}}'}, "json_schema_text", "(at /if)"),
    ],
)
async def test_a_form_that_cannot_be_kept_is_refused(
    engine: VllmEngine, chat: Any, form: dict[str, Any], field: str, sentence: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await chat.Chat(formatted(**form))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"output_format.{field}: " in str(raised.value.details())
    assert sentence in str(raised.value.details())
    assert await engine.num_unfinished() == 0


@pytest.mark.parametrize("mode", [tool_pb2.ToolChoice.MODE_REQUIRED, tool_pb2.ToolChoice.MODE_NAMED])
@pytest.mark.parametrize(
    ("parameters", "pointer"),
    [
        ({"properties": {"a": {"not": {"const": 1}}}}, "(at /properties/a/not)"),
        ({"if": {}, "then": {"required": ["a"]}}, "(at /if)"),
        ({"dependentRequired": {"a": ["b"]}}, "(at /dependentRequired)"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=b)"}}}, "(at /properties/a)"),
    ],
)
async def test_parameters_that_cannot_be_kept_are_refused(
    engine: VllmEngine, chat: Any, mode: tool_pb2.ToolChoice.Mode, parameters: dict[str, Any], pointer: str
) -> None:
    request = ask("What is the weather in Oslo?")
    request.tools.extend([weather_tool(), tool_pb2.Tool(name="f")])
    request.tools[1].parameters.CopyFrom(schema(type="object", **parameters))
    request.tool_choice.mode = mode
    request.tool_choice.name = "f" * (mode == tool_pb2.ToolChoice.MODE_NAMED)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await chat.Chat(request)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert str(raised.value.details()).startswith("tools[1].parameters: ")
    assert pointer in str(raised.value.details())
    assert await engine.num_unfinished() == 0


async def test_arguments_are_written_in_the_order_of_their_schema(chat: Any) -> None:
    request = ask("What is the weather in Oslo?", max_tokens=80)
    text_of_schema = (
        '{"type": "object", "properties": {"why": {"enum": ["z"]}, "city": {"type": "boolean"}}, '
        '"required": ["city", "why"]}'
    )
    request.tools.append(tool_pb2.Tool(name="f", parameters_json=text_of_schema))
    request.tool_choice.mode = tool_pb2.ToolChoice.MODE_NAMED
    request.tool_choice.name = "f"
    (part,) = (await first(chat, request)).message.parts
    assert re.match(r'\{"why": "z", "city": (true|false)[,}]', part.tool_call.arguments_json)


async def test_compact_json_unless_white_space_is_asked_for(chat: Any, models: Any) -> None:
    for seed in range(4):
        request = formatted(json_object=pb.JsonObjectFormat())
        request.sampling.seed = seed
        without_texts = re.sub(r'"(\\.|[^"\\])*("|$)', '""', text(await first(chat, request)))
        assert not re.search(r"\s", without_texts)
    tokenize = model_service_pb2.TokenizeRequest(text=" ", add_special_tokens=False)
    [space] = (await models.Tokenize(tokenize)).token_ids
    array = schema(type="array", items={"const": 1}, minItems=2, maxItems=2)
    for free in (False, True):
        request = formatted(json_schema=array)
        request.output_format.free_white_space = free
        request.sampling.logit_bias[space] = 50
        assert (" " in text(await first(chat, request))) is free


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([1, 1], pb.FINISH_REASON_SCHEMA_VIOLATED),
        ([1, 2], pb.FINISH_REASON_STOP),
    ],
)
async def test_unique_items_are_looked_at_when_the_answer_is_whole(
    chat: Any, items: list[int], reason: pb.FinishReason
) -> None:
    whole = schema(type="array", prefixItems=[{"const": item} for item in items], minItems=2, maxItems=2)
    whole.update({"uniqueItems": True})
    answer = await first(chat, formatted(json_schema=whole))
    assert text(answer) == str(items).replace(" ", "")
    assert answer.finish_reason == reason


async def test_no_constraint_changes_what_later_ones_get(chat: Any) -> None:
    """What one library refuses and another takes, before and after each other."""
    called = REQUESTS["called"]
    forms = [
        formatted(json_schema=schema(type="integer", multipleOf=5, minimum=5, maximum=5)),
        called,
        formatted(regex="(?i)yes"),
        formatted(regex=r"\p{L}{2}"),
        formatted(json_schema=schema(type="integer", multipleOf=5, minimum=5, maximum=5)),
    ]
    for request in (*forms, *reversed(forms)):
        answer = await first(chat, request)
        assert answer.finish_reason in (pb.FINISH_REASON_STOP, pb.FINISH_REASON_TOOL_CALLS)
