"""What strangers do to the port: the process lives, its memory stays bounded, honest clients are served."""

import asyncio
import random
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import grpc
import psutil
import pytest
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, HeadersFrame, PingFrame, SettingsFrame

from octet.client import Client
from octet.config import ServerConfig
from octet.engine.types import TextPart
from octet.v1 import model_service_pb2, model_service_pb2_grpc
from tests.integration import http2
from tests.integration.conftest import Start, ask, code_of
from tests.integration.fake_engine import flood
from tests.integration.processes import Process, server_process

MIB = 1024 * 1024
# Without the room that 10,000 connections are given.
MAX_GROWTH = 96 * MIB


def drain(process: Process) -> None:
    """Reads the log in a thread, or the server would wait for it to be read."""
    assert process.popen.stderr is not None
    threading.Thread(target=process.log.extend, args=(process.popen.stderr,), daemon=True).start()


@pytest.fixture(scope="module")
def victim() -> Iterator[Process]:
    with server_process("flood") as process:
        drain(process)
        with Client(process.target) as client:
            client.chat("warm")
        yield process
        process.popen.terminate()
        process.popen.wait(10)
    assert "unexpected error" not in "".join(process.log), "a client's faults are not the server's"


@contextmanager
def unharmed(process: Process, max_growth: int = MAX_GROWTH) -> Iterator[Client]:
    """Checks at its end that the server still serves old and new clients, with little more memory."""
    before = psutil.Process(process.popen.pid).memory_info().rss
    with Client(process.target) as old:
        assert old.chat("hello", timeout=10).text == "hello "
        yield old
        assert old.chat("hello again", timeout=10).text == "hello again "
    with Client(process.target) as new:
        assert new.chat("hello", timeout=10).text == "hello "
    assert process.popen.poll() is None
    assert psutil.Process(process.popen.pid).memory_info().rss - before < max_growth


def garbage(seed: int) -> bytes:
    """Bytes that are wrong sooner or later: from the first one, after the preface, or within a frame."""
    chance = random.Random(seed)
    noise = chance.randbytes(chance.randrange(1, 20_000))
    settings: bytes = SettingsFrame(0).serialize()
    kind, flags, stream = chance.randrange(12), chance.randrange(256), chance.randrange(2**32)
    length = chance.choice((0, 1, 8, 16384, 16385, 2**24 - 1))
    frame = length.to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + noise
    headers, data = http2.chat_frames(Encoder(), 1, ask())
    call = headers + data
    where = chance.randrange(len(call))
    broken = call[:where] + chance.randbytes(chance.randrange(1, 9)) + call[where:]
    return chance.choice(
        (
            noise,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,  # a TLS handshake
            http2.PREFACE + noise,
            http2.PREFACE + settings + frame,
            http2.PREFACE + settings + broken,
            http2.PREFACE + settings + call[:where],
        )
    )


def test_garbage(victim: Process) -> None:
    with unharmed(victim) as client:
        for seed in range(300):
            with closing(http2.connect(victim.target)) as sock:
                http2.send_all(sock, [garbage(seed)])
            if seed % 50 == 0:
                client.chat("hello", timeout=10)


def test_http_1(victim: Process) -> None:
    with unharmed(victim), closing(http2.connect(victim.target)) as sock:
        http2.send_all(sock, [b"GET /metrics HTTP/1.1\r\nHost: octet.test\r\n\r\n"])
        http2.read_to_end(sock)


def test_rapid_reset(victim: Process) -> None:
    """HTTP/2's streams, started and reset as fast as they can be sent, with and without a request."""

    def calls(request: bool) -> Iterator[bytes]:
        encoder = Encoder()
        for stream in range(1, 20_001, 2):
            headers, data = http2.chat_frames(encoder, stream, ask())
            yield headers + data * request + http2.reset(stream)

    def attack(request: bool) -> None:
        with closing(http2.open_connection(victim.target)) as sock:
            http2.send_all(sock, calls(request))

    with unharmed(victim) as client:
        attackers = [threading.Thread(target=attack, args=(request,)) for request in (False, True)]
        for attacker in attackers:
            attacker.start()
        answered = 0
        while any(attacker.is_alive() for attacker in attackers):
            assert client.chat("hello", timeout=10).text == "hello "
            answered += 1
        assert answered > 0


@pytest.mark.parametrize("frame", [PingFrame(0, b"12345678"), SettingsFrame(0)], ids=["pings", "settings"])
def test_a_flood_of_frames_that_ask_for_an_answer_nobody_reads(
    victim: Process, frame: PingFrame | SettingsFrame
) -> None:
    many = frame.serialize() * 1000
    with unharmed(victim), closing(http2.open_connection(victim.target)) as sock:
        sock.settimeout(1)
        http2.send_all(sock, [many] * 200)


def test_headers_without_end(victim: Process) -> None:
    headers = HeadersFrame(1, b"").serialize()
    more = ContinuationFrame(1, b"\x40\x01a\x7f\x80\x3f" + b"x" * 8191).serialize()
    with unharmed(victim) as client, closing(http2.open_connection(victim.target)) as sock:
        http2.send_all(sock, [headers, *[more] * 15_000])  # 123 MB
        assert client.chat("hello", timeout=10).text == "hello "


def test_metadata_that_is_too_large(victim: Process) -> None:
    limit = ServerConfig().max_metadata_bytes
    request = model_service_pb2.ListModelsRequest()
    with unharmed(victim), grpc.insecure_channel(victim.target) as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        models.ListModels(request, metadata=(("x-long", "x" * (limit - 1024)),), timeout=10)
        for length in (limit, 1000 * limit):
            with pytest.raises(grpc.RpcError) as raised:
                models.ListModels(request, metadata=(("x-long", "x" * length),), timeout=10)
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_clients_that_never_read(victim: Process) -> None:
    """They ask for a gigabyte each, and let HTTP/2's windows hold it."""
    with unharmed(victim) as client, ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(closing(http2.open_connection(victim.target, room=2**30)))
            http2.start_chat(sock, "flood")
            while http2.unread(sock) < 100_000:  # more than the usual window
                assert client.chat("hello", timeout=10).text == "hello "
        for _ in range(20):
            assert client.chat("hello", timeout=10).text == "hello "


def test_ten_thousand_idle_connections(victim: Process) -> None:
    mine, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    theirs, _ = resource.prlimit(victim.popen.pid, resource.RLIMIT_NOFILE)
    count = min(10_000, mine - 200, theirs - 200)
    # Measured: 17 KiB each.
    with unharmed(victim, count * 32 * 1024) as client, ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(closing(http2.open_connection(victim.target)))
        assert client.chat("hello", timeout=10).text == "hello "
        with Client(victim.target) as new:
            assert new.chat("hello", timeout=10).text == "hello "


def test_more_connections_than_files_may_be_open() -> None:
    """Clients that are connected are served; others once there is room again."""
    with server_process("flood", open_files=128) as process:
        assert resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE) == (128, 128)
        drain(process)
        with unharmed(process) as client, ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(closing(http2.open_connection(process.target)))
            assert client.chat("hello", timeout=10).text == "hello "


async def test_a_half_open_connection_is_noticed(start: Start) -> None:
    """Its client's machine is gone, so that nothing answers pings any more; its calls end."""
    config = ServerConfig(port=0, keepalive_seconds=0.2, keepalive_timeout_seconds=0.2)
    running = await start(flood, config=config)
    with closing(http2.open_connection(running.target)) as sock:
        http2.start_chat(sock, "flood")
        assert b"ping_timeout" in await asyncio.to_thread(http2.read_to_end, sock)
    [asked] = running.engine.asked
    assert asked.messages[-1].parts == (TextPart("flood"),)
    await running.engine.idle.wait()


async def test_an_answer_that_nobody_takes_ends(start: Start) -> None:
    running = await start(flood, config=ServerConfig(port=0, write_timeout_seconds=0.3))
    call = running.chat.StreamChat(ask("flood"))
    await call.read()
    await running.engine.idle.wait()
    assert await code_of(call) == grpc.StatusCode.ABORTED
    assert "taken for 0.3 seconds" in await call.details()
