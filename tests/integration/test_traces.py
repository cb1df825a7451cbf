"""Spans, as a real collector receives them."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from octet.config import ServerConfig
from tests.collector import Collector, collector
from tests.integration.conftest import Start, ask
from tests.integration.fake_engine import Endless

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)
CHAT = "octet.v1.ChatService/Chat"


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    # What the server would set for the engine's processes must not outlive the test.
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chat")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    with collector() as started:
        yield started


def traced(collecting: Collector) -> ServerConfig:
    return ServerConfig(port=0, otlp_traces_endpoint=collecting.endpoint)


async def test_a_call_continues_its_callers_trace(start: Start, collecting: Collector) -> None:
    running = await start(config=traced(collecting))
    await running.chat.Chat(ask("something secret"), metadata=PARENT)
    await running.server.stop()
    spans = collecting.wait_for(TRACE, {CHAT, "queue", "translate", "generate"})
    assert spans[CHAT].parent_span_id.hex() == "b7ad6b7169203331"
    assert collecting.services == {"chat"}
    (headers,) = [request.trace_headers for request in running.engine.asked]
    assert headers["traceparent"] == f"00-{TRACE}-{spans['generate'].span_id.hex()}-01"
    assert "secret" not in str(spans)


async def test_a_failure_is_told_from_a_callers_mistake(start: Start, collecting: Collector) -> None:
    running = await start(config=traced(collecting))
    other = TRACE[::-1]
    with pytest.raises(grpc.aio.AioRpcError):
        await running.chat.Chat(ask(model="nobody"), metadata=PARENT)
    await running.server.drain()
    with pytest.raises(grpc.aio.AioRpcError):
        await running.chat.Chat(ask(), metadata=(("traceparent", f"00-{other}-b7ad6b7169203331-01"),))
    await running.server.stop()
    mistake, failure = (collecting.wait_for(trace, {CHAT})[CHAT] for trace in (TRACE, other))
    assert mistake.status.code == mistake.status.STATUS_CODE_UNSET
    assert failure.status.code == failure.status.STATUS_CODE_ERROR
    assert not failure.events


async def test_the_sampler_of_the_environment_decides(
    start: Start, collecting: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    running = await start(config=traced(collecting))
    await running.chat.Chat(ask(), metadata=PARENT)
    await running.server.stop()
    assert collecting.spans == []


async def test_a_collector_that_is_gone_does_not_hold_calls(
    start: Start, collecting: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    running = await start(Endless(), config=ServerConfig(port=0, otlp_traces_endpoint="http://127.0.0.1:9"))
    stream = running.chat.StreamChat(ask())
    await asyncio.wait_for(stream.read(), 10)
    stream.cancel()
    await asyncio.wait_for(running.server.stop(), 20)
