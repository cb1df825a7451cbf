"""What balancers learn from the trailers of chats.

gRPC's own clients keep the trailer for their balancing policies, so these tests speak HTTP/2 by hand.
"""

import asyncio
import base64
from contextlib import closing
from typing import Any

import h2.config
import h2.connection
import h2.events

from octet.config import ServerConfig
from octet.engine.types import Service
from octet.telemetry.load_report import TRAILER, OrcaLoadReport
from octet.v1.embedding_service_pb2 import EmbedRequest
from tests.integration import http2
from tests.integration.conftest import Start, ask, complete, prompt
from tests.integration.fake_engine import Endless


def trailers_of(target: str, path: str, message: bytes) -> dict[str, str]:
    """The trailers of one call."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    connection.send_headers(1, [*(dict(http2.CHAT_HEADERS) | {":path": path}).items()])
    connection.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    trailers: dict[str, str] = {}
    with closing(http2.connect(target)) as sock:
        sock.sendall(connection.data_to_send())
        while data := sock.recv(65536):
            events = connection.receive_data(data)
            sock.sendall(connection.data_to_send())
            for event in events:
                # A refusal has no headers before its trailers.
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    trailers = dict(event.headers or ())
                if isinstance(event, h2.events.StreamEnded):
                    return trailers
    raise AssertionError("the server closed the connection")


async def report(
    target: str, path: str = http2.STREAM_CHAT, message: bytes = ask().SerializeToString()
) -> tuple[Any, dict[str, str]]:
    trailers = await asyncio.to_thread(trailers_of, target, path, message)
    return OrcaLoadReport.FromString(base64.b64decode(trailers[TRAILER], validate=True)), trailers


async def test_every_chat_says_how_busy_the_server_is(start: Start) -> None:
    running = await start()
    said, trailers = await report(running.target)
    assert trailers["grpc-status"] == "0"
    assert said.named_metrics == {"running_requests": 0, "waiting_requests": 0, "kv_cache_utilization": 0}
    assert said.application_utilization == 1 / running.engine.model.max_sequences
    assert said.rps_fractional > 0
    assert said.eps == 0


async def test_completions_and_vectors_say_it_as_well(start: Start) -> None:
    running = await start(services=(Service.COMPLETION, Service.EMBEDDING))
    text = EmbedRequest(inputs=[prompt("a")]).SerializeToString()
    for path, message in (
        ("/octet.v1.CompletionService/Complete", complete("a", "b").SerializeToString()),
        ("/octet.v1.CompletionService/StreamComplete", complete("a", "b").SerializeToString()),
        ("/octet.v1.EmbeddingService/Embed", text),
    ):
        said, trailers = await report(running.target, path, message)
        assert trailers["grpc-status"] == "0"
        assert said.named_metrics["running_requests"] == 0


async def test_refusals_say_it_too_and_keep_their_status(start: Start) -> None:
    config = ServerConfig(port=0, max_running_requests=1, max_waiting_requests=0)
    running = await start(Endless(), config=config)
    first = running.chat.StreamChat(ask())
    await first.read()
    said, trailers = await report(running.target)
    assert trailers["grpc-status"] == "8"
    assert "grpc-retry-pushback-ms" in trailers
    assert "grpc-status-details-bin" in trailers
    assert said.named_metrics == {"running_requests": 1, "waiting_requests": 0, "kv_cache_utilization": 0.25}
    assert said.eps > 0


async def test_load_reports_can_be_switched_off(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, load_reports=False))
    chat = (http2.STREAM_CHAT, ask().SerializeToString())
    assert TRAILER not in await asyncio.to_thread(trailers_of, running.target, *chat)
