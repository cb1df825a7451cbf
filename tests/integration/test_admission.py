"""Admission over a real channel: limits, order, who leaves the queue, and what the refused are told."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from octet.client import AsyncClient
from octet.config import ServerConfig
from octet.engine.types import Event, GenerationRequest
from octet.rpc import translator as translator_module
from octet.rpc.admission.demand import Demand
from octet.server.server import Server
from octet.server.warmup import REQUEST_ID as WARM_UP_ID
from octet.v1 import chat_service_pb2, content_pb2, model_service_pb2
from tests.integration.conftest import Running, Start, ask, code_of, complete, details_of, until
from tests.integration.fake_engine import Endless, accepted, finished, text

NARROW = ServerConfig(port=0, max_running_requests=1, max_waiting_requests=1)


class Stepwise:
    """Answers a request when the test lets it."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self._changed = asyncio.Condition()
        self._released: set[str] = set()

    async def __call__(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield accepted()
        if request.request_id != WARM_UP_ID:
            async with self._changed:
                self.started.append(request.request_id)
                self._changed.notify_all()
                await self._changed.wait_for(lambda: request.request_id in self._released)
        yield text("done", 1)
        for index in range(request.sampling.n):
            yield finished(1, index=index)

    async def has_started(self, *names: str) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.started) >= len(names))
        assert self.started == list(names)

    async def release(self, name: str) -> None:
        async with self._changed:
            self._released.add(name)
            self._changed.notify_all()


def call(running: Running, name: str, **fields: Any) -> "asyncio.Future[Any]":
    timeout = fields.pop("timeout", None)
    metadata = fields.pop("metadata", None)
    unary = running.chat.Chat(ask(request_id=name, **fields), timeout=timeout, metadata=metadata)
    return asyncio.ensure_future(unary)


async def waiting(running: Running, requests: int) -> None:
    await until(lambda: running.server.admission.load().waiting == requests)


async def refused(call_: "asyncio.Future[Any] | Any") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(call_, 5)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    return raised.value


async def test_refusal_says_when_to_come_again(start: Start) -> None:
    script = Stepwise()
    running = await start(script, config=NARROW)
    first = call(running, "a")
    await script.has_started("a")
    second = call(running, "b")
    await waiting(running, 1)
    error = await refused(call(running, "c"))
    assert details_of(error).info.reason == "TOO_MANY_WAITING_REQUESTS"
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(error).details)
    trailers = dict(error.trailing_metadata())
    assert trailers["grpc-retry-pushback-ms"] == str(retry.retry_delay.ToMilliseconds())
    assert trailers["x-request-id"] == "c"
    await script.release("a")
    await script.has_started("a", "b")
    await script.release("b")
    for answered in (first, second):
        assert (await answered).candidates[0].message.parts[0].text == "done"
    # There is room again, and the engine never heard of the refused.
    await script.release("d")
    await call(running, "d")
    assert [request.request_id for request in running.engine.asked] == ["a", "b", "d"]


async def test_nothing_is_decoded_for_the_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Stepwise()
    running = await start(script, config=ServerConfig(port=0, max_running_requests=1, max_waiting_requests=0))
    call_ = call(running, "a")
    await script.has_started("a")

    def forbidden(*args: object, **kwargs: object) -> object:
        raise AssertionError("a refused request is translated")

    monkeypatch.setattr(translator_module, "to_generation_request", forbidden)
    await refused(call(running, "b"))
    await script.release("a")
    await call_


async def test_the_engine_gets_a_little_more_than_it_computes_at_once(start: Start) -> None:
    running = await start(Endless(), attach=False)
    running.engine._model = replace(running.engine.model, max_sequences=8)
    await running.server.attach(running.engine)
    most = 8
    streams = [running.chat.StreamChat(ask()) for _ in range(most + 1 + 2)]
    await waiting(running, 2)
    assert len(running.engine.unfinished) == most + 1
    for stream in streams:
        stream.cancel()
    await asyncio.wait_for(running.engine.idle.wait(), 5)
    await waiting(running, 0)


@pytest.mark.parametrize("how", ["cancel", "CancelChat", "deadline"])
async def test_who_gives_up_while_waiting_leaves_at_once(start: Start, how: str) -> None:
    script = Stepwise()
    running = await start(script, config=NARROW)
    first = call(running, "a")
    await script.has_started("a")
    request = ask(request_id="b", sampling=chat_service_pb2.SamplingParams(n=2))
    gives_up = running.chat.StreamChat(request, timeout=0.3 if how == "deadline" else None)
    await waiting(running, 1)
    if how == "cancel":
        gives_up.cancel()
    elif how == "CancelChat":
        answer = await running.chat.CancelChat(chat_service_pb2.CancelChatRequest(request_ids=["b"]))
        assert list(answer.cancelled_ids) == ["b"]
        chunks = [chunk async for chunk in gives_up]
        assert chunks[0].id == "b"
        assert [delta.finish_reason for delta in chunks[-1].deltas] == [
            chat_service_pb2.FINISH_REASON_CANCELLED
        ] * 2
    else:
        assert await code_of(gives_up) == grpc.StatusCode.DEADLINE_EXCEEDED
    await waiting(running, 0)
    await script.release("a")
    await first
    assert script.started == ["a"]


async def test_keys_share_and_have_limits_of_their_own(start: Start) -> None:
    script = Stepwise()
    keys = "flood flood-key-0123456789 max_concurrent_requests=3\nquiet quiet-key-0123456789"
    config = ServerConfig(port=0, max_running_requests=1, max_waiting_requests=8, api_keys=keys)
    running = await start(script, config=config)

    def of(key: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {key}"),)

    calls = {}
    for place, name in enumerate(("f1", "f2", "f3")):
        calls[name] = call(running, name, metadata=of("flood-key-0123456789"))
        await (waiting(running, place) if place else script.has_started("f1"))
    calls["q1"] = call(running, "q1", metadata=of("quiet-key-0123456789"))
    await waiting(running, 3)
    error = await refused(call(running, "f4", metadata=of("flood-key-0123456789")))
    assert details_of(error).info.reason == "KEY_LIMIT_REACHED"
    quota = error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(quota) for detail in rpc_status.from_call(error).details)
    assert quota.violations[0].subject == "key:flood"
    expected = ["f1", "q1", "f2", "f3"]
    for place, name in enumerate(expected, start=1):
        await script.has_started(*expected[:place])
        await script.release(name)
        await calls[name]


async def test_calls_about_tokens_are_bounded_apart(start: Start) -> None:
    running = await start(Endless(accept=False), config=ServerConfig(port=0, max_token_calls=1))
    count = model_service_pb2.CountTokensRequest(request=ask())
    first = asyncio.ensure_future(running.models.CountTokens(count))
    await until(lambda: running.server.admission.load().token_calls == 1)
    error = await refused(running.models.Tokenize(model_service_pb2.TokenizeRequest(text="hi")))
    assert details_of(error).info.reason == "TOO_MANY_TOKEN_CALLS"
    first.cancel()
    await until(lambda: running.server.admission.load().token_calls == 0)
    await running.models.Tokenize(model_service_pb2.TokenizeRequest(text="hi"))


async def test_pictures_are_bounded_apart_and_do_not_hold_up_text(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    translate = translator_module.to_generation_request

    def slow(request: Any, **kwargs: Any) -> Any:
        if any(part.HasField("image") for part in request.messages[0].parts):
            go_on.wait(10)
        return translate(request, **kwargs)

    monkeypatch.setattr(translator_module, "to_generation_request", slow)
    running = await start(config=ServerConfig(port=0, image_threads=1, max_waiting_images=2))
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    request = ask()
    request.messages[0].parts.add(image=content_pb2.Image(data=file.getvalue()))
    try:
        pictures = [asyncio.ensure_future(running.chat.Chat(request)) for _ in range(2)]
        await until(lambda: running.server.admission.load().waiting_images == 2)
        error = await refused(running.chat.Chat(request))
        assert details_of(error).info.reason == "TOO_MANY_WAITING_IMAGES"
        large = ask("x", tools=[{"name": "f", "description": "d" * 4096}])
        for text_only in (ask(), large):
            await asyncio.wait_for(running.chat.Chat(text_only), 5)
    finally:
        go_on.set()
    await asyncio.gather(*pictures)
    assert running.server.admission.load().waiting_images == 0


@asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        yield client


async def test_our_client_comes_again_when_it_is_told_to(start: Start) -> None:
    script = Stepwise()
    running = await start(script, config=ServerConfig(port=0, max_running_requests=1, max_waiting_requests=0))
    first = call(running, "a")
    await script.has_started("a")
    heard = Refusals()
    running.server.admission.subscribe(heard)
    async with client_of(running.server) as client:
        asked = time.monotonic()
        again = asyncio.ensure_future(client.chat("hi", request_id="b"))
        await asyncio.wait_for(heard.refused_one.wait(), 5)
        await script.release("a")
        await first
        await script.release("b")
        assert (await again).text == "done"
    # Without evidence the server says a second, give or take a quarter; gRPC's own backoff begins at 0.2 s.
    assert time.monotonic() - asked >= 0.7
    assert heard.reasons == ["TOO_MANY_WAITING_REQUESTS"]


async def test_our_client_stays_away_when_it_is_told_to(start: Start) -> None:
    async def slow_first_token(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id != WARM_UP_ID:
            await asyncio.sleep(0.3)
        yield accepted()
        yield finished(0)

    running = await start(slow_first_token)
    await asyncio.gather(*(call(running, f"r{i}") for i in range(9)))
    heard = Refusals()
    running.server.admission.subscribe(heard)
    async with client_of(running.server) as client:
        with pytest.raises(Exception, match=r"the first token is expected in 0\.3 s") as raised:
            await client.chat("hi", timeout=0.2)
    assert raised.value.reason == "DEADLINE_UNREACHABLE"  # type: ignore[attr-defined]
    assert heard.reasons == ["DEADLINE_UNREACHABLE"]


class Refusals:
    """What a listener is told of refusals."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.refused_one = asyncio.Event()

    def admitted(self, caller: str, queue_seconds: float) -> None: ...

    def refused(self, caller: str, reason: str) -> None:
        self.reasons.append(reason)
        self.refused_one.set()


async def test_a_server_that_drains_answers_who_waits_and_sends_newcomers_elsewhere(start: Start) -> None:
    script = Stepwise()
    running = await start(script, config=NARROW)
    calls = [call(running, "a")]
    await script.has_started("a")
    calls.append(call(running, "b"))
    await waiting(running, 1)
    draining = asyncio.ensure_future(running.server.drain())
    await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(ask())
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    # Nothing but trailers: what makes proxies and clients try it elsewhere.
    assert dict(raised.value.initial_metadata()) == {}
    assert "x-request-id" in dict(raised.value.trailing_metadata())
    for name in ("a", "b"):
        await script.release(name)
    await asyncio.gather(*calls)
    await asyncio.wait_for(draining, 5)


async def test_who_comes_again_is_known_by_the_calls_id(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way the id came: else each try of a request that is refused would be more demand."""
    came = []
    monkeypatch.setattr(Demand, "come", lambda demand, ticket: came.append(ticket.request_id))
    running = await start()
    await running.chat.Chat(ask(request_id="in-the-request"))
    await running.chat.Chat(ask(), metadata=[("x-request-id", "in-the-metadata")])
    await running.completions.Complete(complete("one two", request_id="of-a-completion"))
    assert came == ["in-the-request", "in-the-metadata", "of-a-completion"]
