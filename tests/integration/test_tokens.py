"""Counting, making and joining tokens over a real channel."""

import asyncio
import io
from collections.abc import AsyncGenerator

import grpc
import pytest
from PIL import Image

from octet.engine.types import (
    Deltas,
    Event,
    GenerationRequest,
    ImagePart,
    LogprobsDelta,
    PositionLogprobs,
    TokenLogprob,
)
from octet.translate.chunks import ChunkAccumulator
from octet.v1 import chat_service_pb2, content_pb2
from octet.v1.model_service_pb2 import CountTokensRequest, DetokenizeRequest, TokenizeRequest
from tests.integration.conftest import Start, ask
from tests.integration.fake_engine import PROMPT_TOKENS, Endless, accepted, finished, text, usage


async def test_count_tokens_asks_the_engine_with_pictures_decoded(start: Start) -> None:
    running = await start()
    file = io.BytesIO()
    Image.new("RGB", (5, 3)).save(file, "PNG")
    request = ask(request_id="r1")
    request.messages[0].parts.add(image=content_pb2.Image(data=file.getvalue()))
    counted = await running.models.CountTokens(CountTokensRequest(request=request))
    assert counted.prompt_tokens == PROMPT_TOKENS
    [generation] = running.engine.counted
    assert generation.request_id == "r1"
    assert isinstance(generation.messages[0].parts[1], ImagePart)
    assert running.engine.asked == []


async def test_tokens_of_a_running_request_can_be_counted(start: Start) -> None:
    script = Endless()
    running = await start(script)
    stream = running.chat.StreamChat(ask(request_id="r1"))
    await stream.read()
    counted = await running.models.CountTokens(CountTokensRequest(request=ask(request_id="r1")))
    assert counted.prompt_tokens == PROMPT_TOKENS
    script.release.set()


async def test_counting_ends_at_the_deadline(start: Start) -> None:
    """The engine, which is asked for a prompt that it never finishes, is let go."""
    given_up = asyncio.Event()
    script = Endless(accept=False)

    async def stuck(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        try:
            async for event in script(request):
                yield event
        finally:
            if script.started.is_set():
                given_up.set()

    running = await start(stuck)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.models.CountTokens(CountTokensRequest(request=ask()), timeout=0.5)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(given_up.wait(), 2)


async def test_tokenize_and_detokenize(start: Start) -> None:
    running = await start()
    tokens = await running.models.Tokenize(TokenizeRequest(text="aé"))
    assert (list(tokens.token_ids), list(tokens.tokens)) == ([2, 97, 233], ["<bos>", "a", "é"])
    plain = await running.models.Tokenize(TokenizeRequest(text="aé", add_special_tokens=False))
    assert list(plain.token_ids) == [97, 233]
    for parsed, count in ((None, 5), (False, 5), (True, 1)):
        asked = TokenizeRequest(text="<bos>", add_special_tokens=False, parse_special_tokens=parsed)
        assert len((await running.models.Tokenize(asked)).token_ids) == count
    joined = await running.models.Detokenize(DetokenizeRequest(token_ids=tokens.token_ids))
    assert joined.text == "<bos>aé"
    skipped = DetokenizeRequest(token_ids=tokens.token_ids, skip_special_tokens=True)
    assert (await running.models.Detokenize(skipped)).text == "aé"


async def test_log_probabilities_are_streamed_and_whole(start: Start) -> None:
    def position(token_id: int) -> PositionLogprobs:
        return PositionLogprobs(TokenLogprob(token_id, "\ufffd", b"\xc3", -1.5, 3), ())

    async def with_logprobs(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield accepted()
        yield Deltas((LogprobsDelta(0, (position(4),)),), usage(1), (PositionLogprobs(None, ()), position(5)))
        yield Deltas((LogprobsDelta(0, (position(6), position(7))), *text("a", 2).deltas), usage(3))
        yield finished(3)

    running = await start(with_logprobs)
    request = ask(sampling=chat_service_pb2.SamplingParams(logprobs=True, prompt_logprobs=0))
    whole, added_up = await running.chat.Chat(request), ChunkAccumulator()
    chunks = [chunk async for chunk in running.chat.StreamChat(request)]
    assert [len(chunk.prompt_logprobs) for chunk in chunks] == [0, 2, 0, 0]
    for chunk in chunks:
        added_up.add(chunk)
    response = added_up.response()
    assert [position.chosen.token_id for position in whole.candidates[0].logprobs] == [4, 6, 7]
    assert response.candidates == whole.candidates
    assert response.prompt_logprobs == whole.prompt_logprobs
    assert [position.HasField("chosen") for position in whole.prompt_logprobs] == [False, True]
