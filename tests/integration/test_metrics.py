"""What Prometheus sees of a real server with a scripted engine."""

import asyncio
import socket
from collections.abc import AsyncGenerator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from octet.config import ServerConfig
from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Event,
    FinishReason,
    GenerationRequest,
    PromptAccepted,
    TextDelta,
    Usage,
)
from octet.errors import StartupError
from octet.server.server import Server
from tests.http import get
from tests.integration.conftest import Running, Start, ask, rest_of, until
from tests.integration.fake_engine import Endless, call_tool

CHAT = "octet.v1.ChatService/Chat"
STREAM = "octet.v1.ChatService/StreamChat"


def value(running: Running, name: str, **labels: str) -> float | None:
    return running.server.metrics.registry.get_sample_value(name, labels)


def ended(running: Running, method: str, code: str, key: str = "") -> float | None:
    return value(running, "octet_rpc_requests_total", method=method, code=code, key=key)


async def with_pictures(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """Two candidates; 10 of the prompt's 30 tokens were cached, 16 are a picture's."""
    yield PromptAccepted(30, 16)
    for tokens in (2, 4, 6):
        yield Deltas((TextDelta(0, "a"), TextDelta(1, "b")), Usage(30, tokens, 10, 16))
    ends = (CandidateFinished(0, FinishReason.STOP), CandidateFinished(1, FinishReason.LENGTH))
    yield Deltas(ends, Usage(30, 6, 10, 16))


async def test_serving_follows_health(start: Start) -> None:
    running = await start(attach=False)
    assert value(running, "octet_serving") == 0
    await running.server.attach(running.engine)
    assert value(running, "octet_serving") == 1
    await running.server.drain()
    assert value(running, "octet_serving") == 0


async def test_calls_are_counted_by_method_code_and_key(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, api_key="secret"))
    bearer = (("authorization", "Bearer secret"),)
    await running.chat.Chat(ask(), metadata=bearer)
    with pytest.raises(grpc.aio.AioRpcError):
        await running.chat.Chat(ask(model="nobody"), metadata=bearer)
    with pytest.raises(grpc.aio.AioRpcError):
        await running.chat.Chat(ask())
    health = health_pb2_grpc.HealthStub(running.channel)
    await health.Check(health_pb2.HealthCheckRequest())

    assert ended(running, CHAT, "OK", "default") == 1
    assert ended(running, CHAT, "NOT_FOUND", "default") == 1
    assert ended(running, CHAT, "UNAUTHENTICATED") == 1
    assert ended(running, "grpc.health.v1.Health/Check", "OK") == 1
    labels = {"method": CHAT, "code": "OK", "key": "default"}
    assert value(running, "octet_rpc_duration_seconds_count", **labels) == 1
    assert value(running, "octet_rpc_in_flight", method=CHAT) == 0


async def test_methods_that_nobody_serves_share_a_label(start: Start) -> None:
    running = await start()
    for method in ("/octet.v1.ChatService/Chatt", "/a.B/C"):
        call = running.channel.unary_unary(method)(b"")
        with pytest.raises(grpc.aio.AioRpcError, match="no such method") as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert ended(running, "other", "UNIMPLEMENTED") == 2


async def test_tokens_are_counted_once_the_answer_is_complete(start: Start) -> None:
    running = await start(with_pictures)
    request = ask()
    request.sampling.n = 2
    await rest_of(running.chat.StreamChat(request))

    for name, tokens in (("prompt", 30), ("cached", 10), ("image", 16), ("generated", 6)):
        assert value(running, f"octet_{name}_tokens_total", key="") == tokens
    assert value(running, "octet_candidates_total", finish_reason="stop") == 1
    assert value(running, "octet_candidates_total", finish_reason="length") == 1
    assert value(running, "octet_time_to_first_token_seconds_count") == 1
    assert value(running, "octet_time_per_output_token_seconds_count") == 1
    first = value(running, "octet_time_to_first_token_seconds_sum")
    whole = value(running, "octet_rpc_duration_seconds_sum", method=STREAM, code="OK", key="")
    per_token = value(running, "octet_time_per_output_token_seconds_sum")
    assert first is not None
    assert whole is not None
    assert per_token is not None
    # Two candidates, each with two tokens after the first event.
    assert 0 < first + 2 * per_token < whole


async def test_tool_calls_are_counted(start: Start) -> None:
    running = await start(call_tool)
    request = ask()
    request.tools.add(name="weather", description="Says the weather.").parameters.update({"type": "object"})
    await running.chat.Chat(request)
    assert value(running, "octet_tool_calls_total", key="") == 1


async def test_a_cancelled_answer_counts_what_it_took(start: Start) -> None:
    script = Endless()
    running = await start(script)
    stream = running.chat.StreamChat(ask())
    await stream.read()
    await asyncio.wait_for(script.started.wait(), 10)
    assert value(running, "octet_rpc_in_flight", method=STREAM) == 1
    assert value(running, "octet_requests_running") == 1
    stream.cancel()
    await asyncio.wait_for(running.engine.idle.wait(), 10)
    await until(lambda: ended(running, STREAM, "CANCELLED") == 1)
    assert value(running, "octet_generated_tokens_total", key="") == 1
    assert value(running, "octet_requests_running") == 0


async def test_a_deadline_is_told_from_a_cancel(start: Start) -> None:
    running = await start(Endless())
    with pytest.raises(grpc.aio.AioRpcError):
        await rest_of(running.chat.StreamChat(ask(), timeout=0.2))
    await until(lambda: ended(running, STREAM, "DEADLINE_EXCEEDED") == 1)
    assert ended(running, STREAM, "CANCELLED") is None


async def test_waiting_and_refused_requests_are_counted(start: Start) -> None:
    script = Endless()
    config = ServerConfig(port=0, max_running_requests=1, max_waiting_requests=1)
    running = await start(script, config=config)
    first = running.chat.StreamChat(ask())
    await first.read()
    second = asyncio.ensure_future(running.chat.Chat(ask()))
    await until(lambda: value(running, "octet_requests_waiting") == 1)
    assert value(running, "octet_tokens_waiting") != 0
    with pytest.raises(grpc.aio.AioRpcError):
        await running.chat.Chat(ask())
    assert value(running, "octet_rejections_total", reason="TOO_MANY_WAITING_REQUESTS", key="") == 1
    script.release.set()
    await second
    assert value(running, "octet_queue_seconds_count") == 2
    waited = value(running, "octet_queue_seconds_sum")
    assert waited is not None
    assert waited > 0


async def test_prometheus_gets_the_server_and_the_process(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, metrics_port=0))
    await running.chat.Chat(ask())
    text = await asyncio.to_thread(get, f"http://127.0.0.1:{running.server.metrics_port}/metrics")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"octet_rpc_requests", "octet_log_lines_dropped", "process_resident_memory_bytes"} <= names


async def test_a_busy_metrics_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(ServerConfig(port=0, metrics_port=port))
        with pytest.raises(StartupError, match=f"port {port} on 127.0.0.1 is in use.*--metrics-port"):
            await server.start()
        await server.stop()


async def test_the_metrics_port_closes_with_the_server() -> None:
    server = Server(ServerConfig(port=0, metrics_port=0))
    await server.start()
    port = server.metrics_port
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
