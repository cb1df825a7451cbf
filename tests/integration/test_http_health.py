"""Health over plain HTTP: what grpc.health.v1 says, for probes that cannot speak gRPC over TLS."""

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from octet.config import ServerConfig
from octet.engine.types import Service
from octet.telemetry import endpoint
from octet.telemetry.endpoint import MetricsEndpoint
from tests.certificates import NAME, Certificates
from tests.integration.conftest import Running, Start

CONFIG = ServerConfig(port=0, metrics_port=0)
SERVING, NOT_SERVING = (200, "SERVING\n"), (503, "NOT_SERVING\n")


def fetch(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Status and body of a GET. Blocks."""
    try:
        with urlopen(f"http://{host}:{port}{path}", timeout=30) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def health(running: Running, service: str | None = None) -> tuple[int, str]:
    query = "" if service is None else f"?service={quote(service)}"
    return await asyncio.to_thread(fetch, running.server.metrics_port, f"/health{query}")


async def test_it_follows_the_servers_states(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, metrics_port=0, grace_seconds=0), attach=False)
    assert await health(running) == NOT_SERVING, "the model is loading"
    await running.server.attach(running.engine)
    assert await health(running) == SERVING
    await running.server.retire()
    assert await health(running) == NOT_SERVING


async def test_it_says_what_grpc_says(start: Start) -> None:
    """Of every service that health lists, those that the model is not for among them."""
    running = await start(config=CONFIG, services=(Service.COMPLETION,))
    stub = health_pb2_grpc.HealthStub(running.channel)
    listed = (await stub.List(health_pb2.HealthListRequest())).statuses
    status_name = health_pb2.HealthCheckResponse.ServingStatus.Name
    said = {name: (await health(running, name))[1].strip() for name in listed}
    assert said == {name: status_name(response.status) for name, response in listed.items()}
    assert set(said.values()) == {"SERVING", "NOT_SERVING"}


@pytest.mark.parametrize("service", ["octet.v1.Nothing", "a b/c?d=e&f", "\x00"])
async def test_of_unknown_services_it_says_so(start: Start, service: str) -> None:
    running = await start(config=CONFIG)
    assert await health(running, service) == (404, "no such service\n")
    stub = health_pb2_grpc.HealthStub(running.channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


async def test_metrics_are_beside_it(start: Start) -> None:
    running = await start(config=CONFIG)
    status, text = await asyncio.to_thread(fetch, running.server.metrics_port, "/metrics")
    assert status == 200
    assert "octet_serving 1.0" in text


@pytest.mark.parametrize("path", ["/", "/healthz", "/health/", "/metrics/", "/livez", "/favicon.ico"])
async def test_nothing_else_is_there(start: Start, path: str) -> None:
    """A probe of a path that is misspelt must not find everything healthy."""
    running = await start(config=CONFIG)
    found = await asyncio.to_thread(fetch, running.server.metrics_port, path)
    assert found == (404, "there are /metrics and /health\n")


async def test_who_asks_nothing_is_left_without_a_word(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(endpoint._Handler, "timeout", 0.05)
    running = await start(config=CONFIG)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.server.metrics_port)
    writer.write(b"GET /hea")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    assert "Traceback" not in capfd.readouterr().err


async def test_connections_are_bounded_and_probes_get_through(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever opens very many and asks slowly takes neither threads nor files nor the probes' place."""
    monkeypatch.setattr(endpoint, "_MOST_CONNECTIONS", 3)
    running = await start(config=CONFIG)
    opened = []
    for _ in range(6):
        opened.append(await asyncio.open_connection("127.0.0.1", running.server.metrics_port))
        opened[-1][1].write(b"GET /health HTTP/1.1\r\nX: ")
    for reader, _ in opened[:3]:
        await asyncio.wait_for(reader.read(), 30)
    assert await health(running) == SERVING
    await asyncio.wait_for(opened[3][0].read(), 30)
    for _, writer in opened:
        writer.close()
    assert await health(running) == SERVING
    assert "Traceback" not in capfd.readouterr().err


async def test_it_needs_no_certificate(start: Start, tmp_path: Path) -> None:
    """The calls' port asks for one, and probes have none."""
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("server", NAME)
    running = await start(
        config=ServerConfig(
            port=0,
            metrics_port=0,
            tls_certificate=certificate,
            tls_key=key,
            tls_client_ca=certificates.ca,
            api_key="secret",
        )
    )
    assert await health(running) == SERVING


async def test_it_listens_on_ipv6(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, metrics_port=0, metrics_host="[::1]"))
    port = running.server.metrics_port
    assert await asyncio.to_thread(fetch, port, "/health", "[::1]") == SERVING


def test_an_event_loop_that_hangs_is_not_healthy() -> None:
    """Else a probe of a thread would find healthy what answers nobody."""
    opened: Future[MetricsEndpoint] = Future()
    hung, released = threading.Event(), threading.Event()

    async def status(service: str) -> str:
        return "SERVING"

    async def serve() -> None:
        endpoint = MetricsEndpoint(CollectorRegistry(), status, "127.0.0.1", 0, answer_seconds=1)
        opened.set_result(endpoint)
        await asyncio.to_thread(asked.wait)
        hung.set()
        released.wait()
        await asyncio.to_thread(recovered.wait)
        endpoint.close()

    asked, recovered = threading.Event(), threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        port = opened.result(timeout=30).port
        while fetch(port, "/health") != SERVING:
            pass
        asked.set()
        assert hung.wait(timeout=30)
        assert fetch(port, "/health") == (503, "the server does not answer\n")
        released.set()
        while fetch(port, "/health") != SERVING:
            pass
    finally:
        for event in (asked, released, recovered):
            event.set()
        thread.join()
