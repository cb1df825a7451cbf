"""Clients that are gone when the server is about to say something and cannot know: no traceback, no slot."""

import asyncio
import logging
import socket
import struct
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress

import grpc
import pytest
from grpc._cython import cygrpc
from hpack import Encoder
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame

from octet.config import ServerConfig
from octet.engine.types import Event, GenerationRequest
from octet.errors import InvalidRequestError
from octet.rpc import chat as chat_module
from octet.server import grpc_faults
from octet.server.warmup import REQUEST_ID as WARM_UP_ID
from octet.v1 import model_service_pb2
from tests.integration import http2
from tests.integration.conftest import Running, Start, ask, until
from tests.integration.fake_engine import Script, accepted, finished, text

PING = PingFrame(0, b"answered")
PONG = PingFrame(0, b"answered", flags=["ACK"]).serialize()

CHAT = "/octet.v1.ChatService/Chat"
COUNT = "/octet.v1.ModelService/CountTokens"


def answered(running: Running, method: str, code: str | None = None) -> float:
    """How many calls of a method have ended, with one status or with any."""
    return sum(
        sample.value
        for family in running.server.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "octet_rpc_requests_total"
        and sample.labels["method"] == method.removeprefix("/")
        and code in (None, sample.labels["code"])
    )


class Leaver:
    """A client by hand whose call ends in the middle of the engine's work."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None

    def call(self, target: str, method: str, message: bytes) -> None:
        """Makes a call."""
        self.socket = http2.open_connection(target)
        headers = [(name, method if name == ":path" else value) for name, value in http2.CHAT_HEADERS]
        frames = HeadersFrame(1, Encoder().encode(headers), flags=["END_HEADERS"]).serialize()
        body = struct.pack(">BI", 0, len(message)) + message
        self.socket.sendall(frames + DataFrame(1, body, flags=["END_STREAM"]).serialize())

    def leave(self) -> None:
        """Resets the call, and returns when gRPC's core knows. The event loop, which is blocked, does not."""
        assert self.socket is not None
        self.socket.sendall(http2.reset(1) + PING.serialize())
        said = b""
        while PONG not in said:
            said += self.socket.recv(65536)


MOMENTS = ("an error", "a chunk", "the end")


def leaving(leaver: "Leaver | Impatient", moment: str) -> Script:
    """A script during which the client goes, before the server would say what `moment` says."""

    async def script(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id == WARM_UP_ID:
            yield accepted()
            yield finished(0)
            return
        if moment == "an error":
            leaver.leave()
            raise InvalidRequestError("messages", "is not to the engine's liking")
        if moment == "a chunk":
            leaver.leave()
        yield accepted()
        yield text("a ", 1)
        if moment == "the end":
            leaver.leave()
        yield finished(1)

    return script


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("method", [http2.STREAM_CHAT, CHAT, COUNT])
async def test_no_traceback(start: Start, caplog: pytest.LogCaptureFixture, method: str, moment: str) -> None:
    caplog.set_level(logging.INFO)
    leaver = Leaver()
    running: Running = await start(leaving(leaver, moment), config=ServerConfig(port=0))
    request = ask() if method != COUNT else model_service_pb2.CountTokensRequest(request=ask())
    await asyncio.to_thread(leaver.call, running.target, method, request.SerializeToString())
    await until(lambda: answered(running, method) == 1)
    assert running.server.admission.load().running == 0
    assert running.server.admission.load().token_calls == 0
    assert running.engine.unfinished == set()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class Impatient:
    """A client of gRPC's own whose deadline passes in the middle of the engine's work."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def call(self, target: str, method: str, message: bytes) -> grpc.StatusCode:
        """Makes a call; returns how it ended for the client."""
        with grpc.insecure_channel(target) as channel:
            call = channel.unary_stream(method)(message, timeout=0.5)
            call.add_callback(self._ended.set)
            with suppress(grpc.RpcError):
                for _ in call:
                    pass
            code: grpc.StatusCode = call.code()
            return code

    def leave(self) -> None:
        """Returns when the deadline has passed. The event loop, which is blocked, does not know."""
        assert self._ended.wait(30)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("method", [http2.STREAM_CHAT, CHAT, COUNT])
async def test_no_traceback_after_a_deadline(
    start: Start, caplog: pytest.LogCaptureFixture, method: str, moment: str
) -> None:
    caplog.set_level(logging.INFO)
    client = Impatient()
    running: Running = await start(leaving(client, moment), config=ServerConfig(port=0))
    request = ask() if method != COUNT else model_service_pb2.CountTokensRequest(request=ask())
    code = await asyncio.to_thread(client.call, running.target, method, request.SerializeToString())
    # Counting comes to its end before.
    counted = method == COUNT and moment == "the end"
    assert code is (grpc.StatusCode.OK if counted else grpc.StatusCode.DEADLINE_EXCEEDED)
    await until(lambda: answered(running, method) == 1)
    assert running.server.admission.load().running == 0
    assert running.engine.unfinished == set()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_write_that_fails_before_grpc_knows_why(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(*_: object) -> None:
        raise cygrpc.ExecuteBatchError('Failed "execute_batch": (SendMessageOperation,)')

    monkeypatch.setattr(chat_module.Writer, "write", write)
    running: Running = await start(config=ServerConfig(port=0))
    stream = running.chat.StreamChat(ask(), timeout=1)
    await until(lambda: answered(running, http2.STREAM_CHAT) == 1)
    assert answered(running, http2.STREAM_CHAT, "CANCELLED") == 1
    assert running.engine.unfinished == set()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    stream.cancel()


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        ('Failed "execute_batch": (SendStatusFromServerOperation,)', 0),
        ("Failed grpc_call_start_batch: 8", 1),
    ],
)
def test_what_grpc_logs_of_it(caplog: pytest.LogCaptureFixture, error: str, lines: int) -> None:
    grpc_faults.mend()
    log = logging.getLogger("grpc._cython.cygrpc")
    try:
        raise cygrpc.ExecuteBatchError(error)
    except cygrpc.ExecuteBatchError:
        log.exception("ExecuteBatchError raised in core by servicer method [/a/B]")
    assert len(caplog.records) == lines
