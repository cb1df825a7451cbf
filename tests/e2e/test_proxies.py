"""gRPC through the real Envoy, nginx and HAProxy, on the configurations that we publish."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import trustme
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from octet.client import AsyncClient
from octet.config import ServerConfig
from octet.engine.types import Event, GenerationRequest, TextPart
from octet.v1 import chat_service_pb2_grpc
from tests.e2e.envoy import envoy, write_certificate
from tests.e2e.proxies import haproxy, nginx, take_out_of_nginx
from tests.integration.conftest import Running, ask, details_of, rest_of, running_server
from tests.integration.fake_engine import accepted, echo, text
from tests.integration.processes import server_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = ("envoy", "nginx", "haproxy")


async def echo_or_wait(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """Gives back what was said; asked to wait, begins an answer and never goes on."""
    [part] = (part for part in request.messages[-1].parts if isinstance(part, TextPart))
    if part.text != "wait":
        async for event in echo(request):
            yield event
        return
    yield accepted()
    yield text("first ", 1)
    await asyncio.Event().wait()


def start_proxy(kind: str, ports: Sequence[int], directory: Path) -> AbstractContextManager[str]:
    if kind == "nginx":
        return nginx(ports, directory)
    if kind == "haproxy":
        return haproxy(ports, directory)
    return envoy("grpc.yaml", ports, directory)


@dataclass
class Proxied:
    """A proxy in front of replicas, and a channel to it."""

    kind: str
    address: str
    replicas: list[Running]
    channel: grpc.aio.Channel

    @property
    def chat(self) -> chat_service_pb2_grpc.ChatServiceStub:
        return chat_service_pb2_grpc.ChatServiceStub(self.channel)

    def asked(self) -> list[int]:
        """How many requests each replica's engine has been given."""
        return [len(replica.engine.asked) for replica in self.replicas]

    async def working(self) -> int:
        """How many requests the engines work on."""
        return sum([await replica.engine.num_unfinished() for replica in self.replicas])

    async def idle(self) -> None:
        """Returns when no engine works any more."""
        async with asyncio.timeout(60):
            for replica in self.replicas:
                if replica.engine.unfinished:
                    await replica.engine.idle.wait()


@asynccontextmanager
async def proxied(kind: str, directory: Path, **settings: Any) -> AsyncIterator[Proxied]:
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(
                running_server(echo_or_wait, config=ServerConfig(port=0, **settings))
            )
            for _ in range(2)
        ]
        proxy = start_proxy(kind, [replica.server.port for replica in replicas], directory)
        # Its start waits for answers of servers that run on this very event loop.
        address = await asyncio.to_thread(proxy.__enter__)
        stack.callback(proxy.__exit__, None, None, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        yield Proxied(kind, address, replicas, channel)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Proxied]:
    async with proxied(request.param, tmp_path_factory.mktemp(request.param)) as proxy:
        yield proxy


async def test_a_whole_answer(proxy: Proxied) -> None:
    async with AsyncClient(proxy.address) as client:
        assert (await client.chat("one two")).text == "one two "


async def test_a_stream_arrives_as_it_is_written_and_a_cancel_stops_the_engine(proxy: Proxied) -> None:
    stream = proxy.chat.StreamChat(ask("wait"))
    texts = [delta.text for _ in range(2) for delta in (await stream.read()).deltas]
    assert texts == ["first "]
    assert await proxy.working() == 1
    stream.cancel()
    await proxy.idle()


async def test_the_deadline_is_passed_on(proxy: Proxied, tmp_path: Path) -> None:
    """curl sends `grpc-timeout` and then waits for as long as it takes, unlike a gRPC client."""
    message = ask("wait").SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    url = f"http://{proxy.address}/octet.v1.ChatService/Chat"
    command = ["curl", "--silent", "--http2-prior-knowledge", "--dump-header", "-", "--output", os.devnull]
    command += ["--header", "content-type: application/grpc", "--header", "te: trailers"]
    command += ["--header", "grpc-timeout: 700m", "--data-binary", f"@{body}", url]
    curl = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(curl.communicate(), 60)
    assert f"grpc-status: {grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}" in output.decode()
    await proxy.idle()


async def test_errors_keep_their_details(proxy: Proxied) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await proxy.chat.Chat(ask(sampling={"temperature": -1}))
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "sampling.temperature"


async def test_a_large_picture(proxy: Proxied) -> None:
    file = io.BytesIO()
    Image.frombytes("RGB", (1500, 1500), os.urandom(1500 * 1500 * 3)).save(file, "PNG", compress_level=1)
    assert len(file.getvalue()) > 5_000_000
    request = ask("look")
    request.messages[0].parts.add().image.data = file.getvalue()
    assert (await proxy.chat.Chat(request)).usage.completion_tokens == 1


async def test_calls_over_one_connection_go_to_all_replicas(proxy: Proxied) -> None:
    before = proxy.asked()
    for _ in range(30):
        await proxy.chat.Chat(ask())
    assert min(now - then for now, then in zip(proxy.asked(), before, strict=True)) > 1


@pytest.mark.parametrize("kind", KINDS)
async def test_who_has_room_is_asked_before_anybody_is_refused(kind: str, tmp_path: Path) -> None:
    async with proxied(kind, tmp_path, max_running_requests=1, max_waiting_requests=0) as proxy:
        streams = []
        while await proxy.working() < 2:
            stream = proxy.chat.StreamChat(ask("wait"))
            await stream.read()
            streams.append(stream)
        assert kind == "nginx" or len(streams) == 2, "the second went where there was room"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await proxy.chat.Chat(ask())
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo()
        assert any(packed.Unpack(retry) for packed in rpc_status.from_call(raised.value).details)
        pushback = dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]
        assert retry.retry_delay.ToMilliseconds() == int(pushback)
        for stream in streams:
            stream.cancel()
        await proxy.idle()


@pytest.mark.parametrize("kind", ["envoy", "haproxy"])
async def test_a_replica_that_is_not_serving_gets_no_calls(kind: str, tmp_path: Path) -> None:
    async with proxied(kind, tmp_path, grace_seconds=60) as proxy:
        leaving, other = proxy.replicas
        retiring = asyncio.ensure_future(leaving.server.retire())
        async with asyncio.timeout(60):
            # Every one of these calls succeeds, noticed or not.
            while True:
                before = len(leaving.engine.asked)
                for _ in range(30):
                    await proxy.chat.Chat(ask())
                if len(leaving.engine.asked) == before:
                    break
        assert len(other.engine.asked) >= 30
        retiring.cancel()


@pytest.mark.parametrize(
    ("kind", "grace"), [("envoy", "3"), ("envoy", "0"), ("nginx", "3"), ("haproxy", "3")]
)
async def test_a_drain_under_load_fails_no_call(kind: str, grace: str, tmp_path: Path) -> None:
    """With a grace the proxy has turned away in time; without, Envoy tries again elsewhere."""
    with ExitStack() as stack:
        setting = f"grace_seconds={grace}"
        leaving, other = (stack.enter_context(server_process("echo", setting)) for _ in range(2))
        # Nobody must wait for room in a pipe.
        ends = [asyncio.ensure_future(asyncio.to_thread(server.wait, 60)) for server in (leaving, other)]
        ports = [int(server.target.rpartition(":")[2]) for server in (leaving, other)]
        address = stack.enter_context(start_proxy(kind, ports, tmp_path))
        ended = asyncio.Event()

        async def call_on_and_on(stub: chat_service_pb2_grpc.ChatServiceStub, counts: list[int]) -> None:
            while not ended.is_set():
                answer = await stub.Chat(ask())
                assert answer.usage.completion_tokens == 3
                chunks = await rest_of(stub.StreamChat(ask()))
                assert chunks[-1].usage.completion_tokens == 3
                counts[0] += 1

        counts = [0]
        try:
            async with (
                grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel,
                asyncio.TaskGroup() as group,
            ):
                stub = chat_service_pb2_grpc.ChatServiceStub(channel)
                for _ in range(8):
                    group.create_task(call_on_and_on(stub, counts))
                await several(50, counts)
                if kind == "nginx":
                    # It does not look at health.
                    take_out_of_nginx(ports[0], tmp_path)
                leaving.signal(signal.SIGTERM)
                assert await ends[0] == 0
                await several(50, counts)
                ended.set()
        finally:
            for server in (leaving, other):
                server.popen.kill()
            await asyncio.wait(ends)
        assert any("ChatService/Chat OK" in line for line in leaving.log)


async def test_envoy_adds_mutual_tls_and_the_key(tmp_path: Path) -> None:
    ca, stranger = trustme.CA(), trustme.CA()
    write_certificate(ca, tmp_path / "server", "octet")
    write_certificate(ca, tmp_path / "client", "gateway.example.com")
    write_certificate(stranger, tmp_path / "stranger", "gateway.example.com")
    ca.cert_pem.write_to_path(tmp_path / "stranger" / "ca.crt")
    config = ServerConfig(
        port=0,
        api_key="secret",
        tls_certificate=str(tmp_path / "server" / "tls.crt"),
        tls_key=str(tmp_path / "server" / "tls.key"),
        tls_client_ca=str(tmp_path / "server" / "ca.crt"),
    )
    async with running_server(echo, config=config) as replica:

        async def status_with(certificates: str, key: str) -> grpc.StatusCode:
            directory = tmp_path / f"{certificates}-{key}"
            directory.mkdir()
            proxy = envoy(
                "mtls.yaml",
                [replica.server.port],
                directory,
                tls=tmp_path / certificates,
                environment={"OCTET_API_KEY": key},
            )
            address = await asyncio.to_thread(proxy.__enter__)
            try:
                async with grpc.aio.insecure_channel(address) as channel:
                    stub = chat_service_pb2_grpc.ChatServiceStub(channel)
                    return await stub.Chat(ask()).code()
            finally:
                proxy.__exit__(None, None, None)

        assert await status_with("client", "secret") == grpc.StatusCode.OK
        assert await status_with("client", "wrong") == grpc.StatusCode.UNAUTHENTICATED
        assert await status_with("stranger", "secret") == grpc.StatusCode.UNAVAILABLE
        assert len(replica.engine.asked) == 1


async def several(more: int, counts: list[int]) -> None:
    """Returns when so many more calls have been answered."""
    before = counts[0]
    while counts[0] < before + more:  # noqa: ASYNC110 - whoever calls counts, and does nothing else
        await asyncio.sleep(0.01)
