"""Completions of raw prompts, by a scripted engine over a real channel."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest

from octet.client import AsyncClient
from octet.config import ServerConfig
from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Event,
    FinishReason,
    GenerationRequest,
    ImagePart,
    Service,
    TextPart,
    TokensPart,
)
from octet.errors import InvalidRequestError
from octet.translate.chunks import CompletionAccumulator
from octet.v1 import chat_service_pb2, completion_service_pb2, model_service_pb2, prompt_pb2
from tests.integration.conftest import Running, Start, ask, complete, details_of, rest_of, until
from tests.integration.fake_engine import (
    PROMPT_TOKENS,
    Endless,
    accepted,
    echo,
    finished,
    said_in,
    text,
    usage,
)
from tests.pictures import flat

Request = completion_service_pb2.CompletionRequest
STOP = chat_service_pb2.FINISH_REASON_STOP
CANCELLED = chat_service_pb2.FINISH_REASON_CANCELLED
NOTICE_SECONDS = 1.0


def texts_of(response: completion_service_pb2.CompletionResponse) -> list[list[str]]:
    return [[completion.text for completion in result.completions] for result in response.results]


async def streamed(running: Running, request: Request) -> completion_service_pb2.CompletionResponse:
    answer = CompletionAccumulator(len(request.prompts))
    async for chunk in running.completions.StreamComplete(request):
        answer.add(chunk)
    return answer.response()


async def test_one_prompt(start: Start) -> None:
    running = await start()
    response = await running.completions.Complete(complete("one two", request_id="r1"))
    assert (response.id, response.model) == ("r1", "fake")
    assert response.HasField("create_time")
    [result] = response.results
    [completion] = result.completions
    assert (completion.index, completion.text, completion.finish_reason) == (0, "one two ", STOP)
    assert result.usage == response.usage
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (PROMPT_TOKENS, 2)
    assert response.usage.total_tokens == PROMPT_TOKENS + 2


async def test_what_ended_a_completion(start: Start) -> None:
    """A stop string, a token, of whatever id, or nothing that was written."""

    async def ending(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield accepted()
        for index, stop in enumerate(("end", 0, None)):
            end = CandidateFinished(index, FinishReason.STOP, stop)
            yield Deltas((*text("a ", 1, index).deltas, end), usage(index + 1))

    running = await start(ending)
    request = complete("one", "two", sampling={"n": 3})
    for response in (await running.completions.Complete(request), await streamed(running, request)):
        for result in response.results:
            ends = [completion.WhichOneof("stop") for completion in result.completions]
            assert ends == ["stop_string", "stop_token_id", None]
            assert (result.completions[0].stop_string, result.completions[1].stop_token_id) == ("end", 0)
    async with AsyncClient(running.target) as client:
        assert (await client.complete("one", n=3)).stop == "end"


async def test_what_the_engine_is_asked(start: Start) -> None:
    running = await start()
    parts = [
        prompt_pb2.PromptPart(text="a"),
        prompt_pb2.PromptPart(image={"data": flat("PNG", 4)}),
        prompt_pb2.PromptPart(tokens={"ids": [1, 2]}),
    ]
    request = Request(
        prompts=[prompt_pb2.Prompt(parts=parts)],
        request_id="r1",
        adapter="pirate",
        cache_salt="s",
        parse_special_tokens=False,
        add_special_tokens=False,
        output_format={"regex": "a*"},
        sampling={"n": 2},
    )
    await running.completions.Complete(request)
    [asked] = running.engine.asked
    assert asked.request_id == "r1"
    assert (asked.messages, asked.tools, asked.adapter, asked.cache_salt) == ((), (), "pirate", "s")
    assert asked.output_format is not None
    assert asked.sampling.n == 2
    assert asked.prompt is not None
    first, picture, last = asked.prompt.parts
    assert (first, last) == (TextPart("a"), TokensPart((1, 2)))
    assert isinstance(picture, ImagePart)
    assert (picture.image.mode, picture.image.size) == ("RGB", (4, 4))
    assert (asked.prompt.add_special_tokens, asked.prompt.parse_special_tokens) == (False, False)


async def test_defaults(start: Start) -> None:
    running = await start()
    await running.completions.Complete(complete("a"))
    [asked] = running.engine.asked
    assert asked.prompt is not None
    assert (asked.prompt.add_special_tokens, asked.prompt.parse_special_tokens) == (True, True)


@pytest.mark.parametrize("n", [1, 3])
async def test_several_prompts_come_back_in_their_order(start: Start, n: int) -> None:
    running = await start()
    said = [f"{'w ' * (40 - i)}p{i}" for i in range(40)][: 64 // n]
    request = complete(*said, sampling={"n": n}, request_id="r1")
    whole = await running.completions.Complete(request)
    assert texts_of(whole) == [[f"{text} "] * n for text in said]
    words = sum(len(text.split()) for text in said) * n
    assert whole.usage.prompt_tokens == PROMPT_TOKENS * len(said)
    assert whole.usage.completion_tokens == words
    assert [result.usage.completion_tokens for result in whole.results] == [
        len(text.split()) * n for text in said
    ]
    piecewise = await streamed(running, request)
    piecewise.create_time.CopyFrom(whole.create_time)
    assert piecewise == whole
    assert {asked.request_id for asked in running.engine.asked} == {f"r1/{i}" for i in range(len(said))}
    load = running.server.admission.load()
    assert (load.running, load.waiting, load.running_sequences) == (0, 0, 0)


async def test_chunks_say_whose_they_are(start: Start) -> None:
    running = await start()
    chunks = [chunk async for chunk in running.completions.StreamComplete(complete("a b", "c"))]
    first, *others, last = chunks
    assert first.id
    assert not any(chunk.id for chunk in others)
    updates = [update for chunk in chunks for update in chunk.prompts]
    assert sorted(update.prompt_index for update in updates) == [0, 0, 1, 1]
    ends = [delta.prompt_index for chunk in chunks for delta in chunk.deltas if delta.finish_reason]
    assert sorted(ends) == [0, 1]
    assert not any(chunk.HasField("usage") for chunk in (first, *others))
    assert last.usage.completion_tokens == 3


@pytest.mark.parametrize("prompts", [1, 5])
@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
async def test_who_gives_up_stops_all_of_it(start: Start, prompts: int, how: str) -> None:
    script = Endless()
    running = await start(script)
    request = complete(*["a"] * prompts)
    stream = running.completions.StreamComplete(request, timeout=0.3 if how == "deadline" else None)
    await stream.read()
    await until(lambda: len(running.engine.unfinished) == prompts)
    if how == "cancel":
        stream.cancel()
    elif how == "close":
        await running.channel.close()
    else:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await rest_of(stream)
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(running.engine.idle.wait(), NOTICE_SECONDS)
    await until(lambda: running.server.admission.load().running == 0)


@pytest.mark.parametrize("service", ["chat", "completions"])
async def test_cancelled_by_id(start: Start, service: str) -> None:
    """Ids are the caller's, whichever service it asks."""
    running = await start(Endless(), config=ServerConfig(port=0, max_running_requests=2))
    request = complete("a", "b", "c", request_id="r1", sampling={"n": 1})
    call = running.completions.Complete(request)
    await until(lambda: len(running.engine.unfinished) == 2)
    if service == "chat":
        cancelled = await running.chat.CancelChat(chat_service_pb2.CancelChatRequest(request_ids=["r1", "x"]))
    else:
        ids = completion_service_pb2.CancelCompletionRequest(request_ids=["r1", "x"])
        cancelled = await running.completions.CancelCompletion(ids)
    assert list(cancelled.cancelled_ids) == ["r1"]
    response = await call
    # The third one's turn had not come.
    assert texts_of(response) == [["first "], ["first "], [""]]
    ends = [completion.finish_reason for result in response.results for completion in result.completions]
    assert ends == [CANCELLED] * 3
    assert [result.usage.prompt_tokens for result in response.results] == [PROMPT_TOKENS, PROMPT_TOKENS, 0]
    await asyncio.wait_for(running.engine.idle.wait(), NOTICE_SECONDS)


async def fails_at_b(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """An engine that finds one prompt wrong when it sees it, and leaves the others unanswered."""
    assert request.prompt is not None
    if said_in(request.prompt) == "b":
        raise InvalidRequestError(request.prompt.field, "has no tokens")
    yield accepted()
    yield text("x", 1)
    await asyncio.Event().wait()


async def test_what_only_the_engine_finds_ends_the_call(start: Start) -> None:
    running = await start(attach=False)
    await running.server.attach(running.engine)
    running.engine.script = fails_at_b
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.completions.Complete(complete("a", "a", "b", "a"))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "prompts[2]"
    await asyncio.wait_for(running.engine.idle.wait(), NOTICE_SECONDS)
    assert running.server.admission.load().running == 0


async def test_a_slow_reader_holds_back_only_what_he_asked_for(start: Start) -> None:
    """Nothing is read of an answer that nobody takes, nor does it keep others from theirs."""
    running = await start(config=ServerConfig(port=0, write_timeout_seconds=30))

    async def flood(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.prompt is None:
            async for event in echo(request):
                yield event
            return
        yield accepted()
        for tokens in range(1, 20_000):
            yield text("x" * 2**16, tokens)
            await asyncio.sleep(0)
        yield finished(20_000)

    running.engine.script = flood
    stream = running.completions.StreamComplete(complete("a", "b"))
    await stream.read()
    assert (await running.chat.Chat(ask("hello"))).candidates[0].message.parts[0].text == "hello "
    stream.cancel()
    await asyncio.wait_for(running.engine.idle.wait(), NOTICE_SECONDS)


async def test_metrics_and_log_have_the_whole_request(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "octet")
    running = await start(config=ServerConfig(port=0, log_prompts=100))
    await running.completions.Complete(complete("a b", "c"))
    sample = running.server.metrics.registry.get_sample_value
    assert sample("octet_prompt_tokens_total", {"key": ""}) == 2 * PROMPT_TOKENS
    assert sample("octet_generated_tokens_total", {"key": ""}) == 3
    fields: list[dict[str, Any]] = [getattr(record, "fields", {}) for record in caplog.records]
    [line] = [entry for entry in fields if entry.get("method") == "octet.v1.CompletionService/Complete"]
    assert (line["prompt_tokens"], line["generated_tokens"]) == (2 * PROMPT_TOKENS, 3)
    assert {entry["prompt"] for entry in fields if "prompt" in entry} == {"a b", "c"}


BASE = (Service.COMPLETION,)


async def test_a_base_model_says_what_it_is_for(start: Start) -> None:
    running = await start(services=BASE)
    assert (await running.completions.Complete(complete("a b"))).results[0].completions[0].text == "a b "
    [warm_up, _] = running.engine.requests
    assert warm_up.prompt is not None
    for call in (
        running.chat.Chat(ask()),
        rest_of(running.chat.StreamChat(ask())),
        running.models.CountTokens(model_service_pb2.CountTokensRequest(request=ask())),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert "fake has no chat template" in (raised.value.details() or "")
        assert "octet.v1.CompletionService" in (raised.value.details() or "")
        assert details_of(raised.value).info.reason == "SERVICE_NOT_OFFERED"


async def test_a_prompt_that_waits_is_counted_once(start: Start) -> None:
    """One request has one place among those that wait, however many prompts it has."""
    config = ServerConfig(port=0, max_running_requests=1, max_waiting_requests=1)
    script = Endless()
    running = await start(script, config=config)
    held = running.chat.StreamChat(ask())
    await held.read()
    call = running.completions.Complete(complete(*["a"] * 64))
    await until(lambda: running.server.admission.load().waiting == 1)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.completions.Complete(complete("a"))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    held.cancel()
    script.release.set()
    assert texts_of(await call) == [["first last"]] * 64


async def test_a_key_has_no_more_at_once_than_it_may(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a secret max_concurrent_requests=3\n")
    script = Endless()
    running = await start(script, config=ServerConfig(port=0, api_keys_file=str(keys)))
    metadata = (("authorization", "Bearer secret"),)
    call = running.completions.Complete(complete(*["a"] * 10), metadata=metadata)
    await until(lambda: len(running.engine.unfinished) == 3)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.completions.Complete(complete("a"), metadata=metadata)
    assert details_of(raised.value).info.reason == "KEY_LIMIT_REACHED"
    script.release.set()
    assert len((await call).results) == 10
