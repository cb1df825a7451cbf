"""The Unix socket, the age of connections, channelz, and clients that do not read."""

import asyncio
import socket
import stat
from pathlib import Path

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from h2.settings import SettingCodes

from octet.client import AsyncClient
from octet.config import ServerConfig
from octet.errors import StartupError
from octet.server.server import Server
from octet.v1 import chat_service_pb2_grpc
from tests.integration import http2
from tests.integration.conftest import Start, ask, code_of, rest_of
from tests.integration.fake_engine import Endless


def mode_of(path: Path) -> int:
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    return stat.S_IMODE(status.st_mode)


async def said(target: str) -> str:
    async with AsyncClient(target) as client:
        return (await client.chat("hi")).text


async def test_a_unix_socket_beside_the_port(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    running = await start(config=ServerConfig(port=0, uds=str(path)))
    assert mode_of(path) == 0o660
    assert [await said(target) for target in (f"unix:{path}", running.target)] == ["hi "] * 2
    assert running.server.addresses == f"unix:{path} and {running.target}"
    await running.server.stop()
    assert not path.exists()


async def test_a_unix_socket_instead_of_the_port(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    running = await start(config=ServerConfig(tcp=False, uds=str(path), uds_mode=0o600))
    assert mode_of(path) == 0o600
    assert await said(f"unix:{path}") == "hi "
    assert (running.server.port, running.server.addresses) == (0, f"unix:{path}")


async def test_a_key_is_asked_for_over_the_unix_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    await start(config=ServerConfig(tcp=False, uds=str(path), api_key="k"))
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = chat_service_pb2_grpc.ChatServiceStub(channel).Chat(ask())
        assert await call.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_stale_socket_is_replaced(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    assert path.exists()
    await start(config=ServerConfig(tcp=False, uds=str(path)))
    assert await said(f"unix:{path}") == "hi "


async def expect_failure(uds: Path, problem: str) -> None:
    server = Server(ServerConfig(tcp=False, uds=str(uds)))
    with pytest.raises(StartupError, match=rf"^--uds: .*{problem}") as raised:
        await server.start()
    assert "\n" not in str(raised.value)
    await server.stop()


async def test_sockets_that_cannot_be_had(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    await expect_failure(tmp_path / "file", "is there already, and is no socket")
    assert (tmp_path / "file").read_text() == "precious"
    await expect_failure(tmp_path, "is there already, and is no socket")
    await expect_failure(tmp_path / "missing" / "socket", "No such file or directory")
    await expect_failure(tmp_path / ("x" * 120), "path too long")
    running = await start(config=ServerConfig(tcp=False, uds=str(tmp_path / "socket")))
    await expect_failure(tmp_path / "socket", "is in use")
    assert running.server.addresses == f"unix:{tmp_path / 'socket'}"
    assert await said(f"unix:{tmp_path / 'socket'}") == "hi "


async def test_an_old_connection_is_replaced_and_its_calls_go_on(start: Start) -> None:
    script = Endless()
    running = await start(script, config=ServerConfig(port=0, max_connection_age_seconds=0.5))
    stream = running.chat.StreamChat(ask())
    await stream.read()
    await stream.read()
    states = [running.channel.get_state()]
    while states[-1] != grpc.ChannelConnectivity.IDLE:
        await running.channel.wait_for_state_change(states[-1])
        states.append(running.channel.get_state())
    script.release.set()
    assert "".join(delta.text for chunk in await rest_of(stream) for delta in chunk.deltas) == "last"
    assert await code_of(stream) == grpc.StatusCode.OK
    await running.chat.Chat(ask())


async def test_calls_on_an_old_connection_end_after_the_grace(start: Start) -> None:
    config = ServerConfig(port=0, max_connection_age_seconds=0.2, max_connection_age_grace_seconds=0.2)
    running = await start(Endless(), config=config)
    assert await code_of(running.chat.StreamChat(ask())) == grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(running.engine.idle.wait(), 5)


async def test_limits_are_announced(start: Start) -> None:
    config = ServerConfig(port=0, window_bytes=2**20, max_concurrent_streams=7, max_metadata_bytes=12_345)
    settings = await asyncio.to_thread(http2.announced, (await start(config=config)).target)
    assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == 2**20
    assert settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 7
    assert settings[SettingCodes.MAX_HEADER_LIST_SIZE] == 12_345


async def test_channelz_follows_its_flag(start: Start) -> None:
    for channelz, expected in ((True, grpc.StatusCode.OK), (False, grpc.StatusCode.UNIMPLEMENTED)):
        running = await start(config=ServerConfig(port=0, channelz=channelz))
        call = channelz_pb2_grpc.ChannelzStub(running.channel).GetServers(channelz_pb2.GetServersRequest())
        assert await call.code() == expected
        if channelz:
            assert len((await call).server) >= 1
