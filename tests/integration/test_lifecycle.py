"""Health, drain and the engine's death."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octet.config import ServerConfig
from octet.engine.types import Event, GenerationRequest
from octet.errors import EngineDeadError, InvalidRequestError, StartupError
from octet.server.server import OWN_SERVICES, Server
from octet.v1 import chat_service_pb2_grpc, model_service_pb2
from tests.idle import idle_seconds
from tests.integration.conftest import Start, ask, code_of, details_of, rest_of
from tests.integration.fake_engine import Endless, FakeEngine, echo

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_health_waits_for_the_warm_up(start: Start) -> None:
    running = await start(attach=False)
    health = health_pb2_grpc.HealthStub(running.channel)
    watched = {
        name: health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", *OWN_SERVICES)
    }
    for watch in watched.values():
        assert (await watch.read()).status == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(ask())
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "being loaded" in str(raised.value.details())
    assert running.engine.requests == []
    await running.server.attach(running.engine)
    assert len(running.engine.requests) == 1
    # Its model is for no vectors.
    watched.pop("octet.v1.EmbeddingService").cancel()
    for watch in watched.values():
        assert (await watch.read()).status == SERVING
    await running.chat.Chat(ask())


async def test_a_model_that_answers_nothing_is_not_served(start: Start) -> None:
    class Mute(FakeEngine):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
            raise InvalidRequestError("messages", "the chat template is broken")
            yield  # a generator all the same

    running = await start(attach=False)
    with pytest.raises(StartupError, match="cannot answer even a greeting: the chat template is broken"):
        await running.server.attach(Mute(echo))
    answer = await health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == NOT_SERVING


async def test_health_of_an_unknown_service(start: Start) -> None:
    running = await start()
    health = health_pb2_grpc.HealthStub(running.channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_busy_port_is_one_clear_line() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = Server(ServerConfig(port=port))
        with pytest.raises(StartupError, match=rf"port {port} .* in use; .*--port") as raised:
            await server.start()
        assert "\n" not in str(raised.value)
        await server.stop()


async def test_two_servers_do_not_share_a_port(start: Start) -> None:
    running = await start()
    second = Server(ServerConfig(port=running.server.port))
    with pytest.raises(StartupError, match="in use"):
        await second.start()
    await second.stop()


@pytest.mark.parametrize(
    ("host", "message"), [("192.0.2.1", "no address of this machine"), ("no.such.host.invalid", "resolved")]
)
async def test_wrong_host(host: str, message: str) -> None:
    server = Server(ServerConfig(host=host, port=0, api_key="k"))
    with pytest.raises(StartupError, match=message):
        await server.start()
    await server.stop()


async def test_drain_lets_running_calls_end_and_refuses_new_ones(start: Start) -> None:
    script = Endless()
    running = await start(script)
    health = health_pb2_grpc.HealthStub(running.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    stream = running.chat.StreamChat(ask())
    await stream.read()
    await stream.read()
    draining = asyncio.ensure_future(running.server.drain())
    assert (await watch.read()).status == NOT_SERVING
    for refused in (
        running.chat.Chat(ask()),
        running.models.ListModels(model_service_pb2.ListModelsRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await refused
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert details_of(raised.value).info.reason == "UNAVAILABLE"
    assert not draining.done()
    script.release.set()
    texts = [delta.text for chunk in await rest_of(stream) for delta in chunk.deltas]
    assert "".join(texts) == "last"
    assert await code_of(stream) == grpc.StatusCode.OK
    await asyncio.wait_for(draining, 1)


async def test_drain_is_bounded_and_stop_ends_the_rest(start: Start) -> None:
    running = await start(Endless(), config=ServerConfig(port=0, drain_seconds=0.2))
    stream = running.chat.StreamChat(ask())
    await stream.read()
    started, idle = time.monotonic(), idle_seconds()
    await running.server.drain()
    assert time.monotonic() - started >= 0.2
    assert idle_seconds() - idle < 2
    assert len(running.engine.unfinished) == 1
    await running.server.stop()
    assert running.engine.unfinished == set()
    assert await code_of(stream) == grpc.StatusCode.UNAVAILABLE


async def test_engine_death_flips_health_and_ends_calls(start: Start) -> None:
    running = await start(Endless())
    health = health_pb2_grpc.HealthStub(running.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    stream = running.chat.StreamChat(ask())
    await stream.read()
    watching = asyncio.ensure_future(running.server.watch(running.engine))
    died = idle_seconds()
    running.engine.death = EngineDeadError("the engine process has died")
    assert (await watch.read()).status == NOT_SERVING
    assert idle_seconds() - died < 2
    assert await code_of(stream) == grpc.StatusCode.UNAVAILABLE
    assert await watching is running.engine.death
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.chat.Chat(ask())
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert details_of(raised.value).info.reason == "ENGINE_DEAD"


async def test_engine_that_cannot_answer_never_serves(start: Start) -> None:
    running = await start(attach=False)
    engine = FakeEngine(echo)
    engine.death = EngineDeadError("the engine process has died")
    with pytest.raises(EngineDeadError):
        await running.server.attach(engine)
    health = health_pb2_grpc.HealthStub(running.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING


async def test_pings_on_a_long_silent_call_are_tolerated(start: Start) -> None:
    script = Endless()
    running = await start(script, config=ServerConfig(port=0, min_ping_interval_seconds=0.05))
    options = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
    async with grpc.aio.insecure_channel(running.target, options=options) as channel:
        stream = chat_service_pb2_grpc.ChatServiceStub(channel).StreamChat(ask())
        await stream.read()
        await stream.read()
        await asyncio.sleep(6)  # some 5 pings; the third too many would end the connection
        script.release.set()
        assert await code_of(stream) == grpc.StatusCode.OK
