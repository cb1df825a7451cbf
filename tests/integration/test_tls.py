"""TLS and mutual TLS: a real server, and the package's own client."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from octet.client import AsyncClient, OctetRpcError, Tls
from octet.config import ServerConfig
from octet.engine.types import Event, GenerationRequest
from octet.errors import StartupError
from octet.rpc.call import caller
from octet.server import reload
from octet.server.server import Server
from tests.certificates import NAME, Certificates
from tests.integration.conftest import Running, Start
from tests.integration.fake_engine import Endless, accepted, finished, text
from tests.integration.logs import logged

REFUSED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def config(certificates: Certificates) -> ServerConfig:
    certificate, key = certificates.issue("server", NAME)
    return ServerConfig(port=0, tls_certificate=certificate, tls_key=key)


def mutual(certificates: Certificates, **settings: str) -> ServerConfig:
    certificate, key = certificates.issue("server", NAME)
    return ServerConfig(
        port=0,
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=certificates.ca,
        **settings,  # type: ignore[arg-type]
    )


def own(certificates: Certificates, *names: str, common_name: str | None = None) -> Tls:
    certificate, key = certificates.issue("client", *names, common_name=common_name)
    return Tls(ca=certificates.ca, certificate=certificate, key=key, server_name=NAME)


async def who(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """Says whose call it is."""
    yield accepted()
    yield text(caller.get(), 1)
    yield finished(1)


def measured(running: Running, metric: str, **labels: str) -> float | None:
    return running.server.metrics.registry.get_sample_value(metric, labels)


async def ask(target: str, tls: Tls | None, api_key: str | None = None) -> str:
    async with AsyncClient(target, tls=tls, api_key=api_key) as client:
        return (await client.chat("hi", timeout=5)).text


async def refusal(target: str, tls: Tls | None, api_key: str | None = None) -> grpc.StatusCode:
    with pytest.raises(OctetRpcError) as raised:
        async with AsyncClient(target, tls=tls, api_key=api_key) as client:
            await client.chat("hi", timeout=1)
    return raised.value.code


async def test_tls(start: Start, config: ServerConfig, certificates: Certificates) -> None:
    running = await start(config=config)
    tls = Tls(ca=certificates.ca, server_name=NAME)
    assert await ask(running.target, tls) == "hi "
    assert await refusal(running.target, None) in REFUSED
    assert await refusal(running.target, Tls(ca=certificates.ca, server_name="other.test")) in REFUSED


async def test_a_new_certificate_is_served_without_a_restart(
    start: Start, config: ServerConfig, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.01)
    script = Endless()
    running = await start(script, config=config)
    old, new = (Tls(ca=certificates.ca, server_name=name) for name in (NAME, "new.test"))
    async with AsyncClient(running.target, tls=old) as client:
        stream = aiter(client.stream("hi"))
        assert await anext(stream) == "first "
        with logged("TLS certificates reloaded") as message:
            certificates.issue("server", "new.test")
            await asyncio.wait_for(message, 10)
        script.release.set()
        assert await ask(running.target, new) == "first last"
        assert await refusal(running.target, old) in REFUSED
        assert [piece async for piece in stream] == ["last"], "what was connected before goes on"


async def test_a_broken_pair_changes_nothing(
    start: Start, config: ServerConfig, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.01)
    running = await start(config=config)
    assert config.tls_key is not None
    _, other_key = certificates.issue("other", NAME)
    for content in (other_key, certificates.ca, os.devnull):
        with logged("TLS certificates stay as they were: ") as message:
            shutil.copyfile(content, config.tls_key)
            assert config.tls_key in await asyncio.wait_for(message, 10)
        assert await ask(running.target, Tls(ca=certificates.ca, server_name=NAME)) == "hi "
        assert measured(running, "octet_reload_failed", files="TLS certificates") == 1


async def test_the_end_of_the_certificate_is_known(
    start: Start, config: ServerConfig, certificates: Certificates
) -> None:
    certificates.issue("server", NAME, not_after=datetime(2099, 1, 1, tzinfo=UTC))
    running = await start(config=config)
    expiry = measured(
        running, "octet_tls_certificate_expiry_timestamp_seconds", file=str(config.tls_certificate)
    )
    assert expiry == datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    assert measured(running, "octet_reload_failed", files="TLS certificates") == 0


async def test_a_client_without_certificate_is_refused(start: Start, certificates: Certificates) -> None:
    running = await start(config=mutual(certificates))
    assert await refusal(running.target, Tls(ca=certificates.ca, server_name=NAME)) in REFUSED


async def test_a_client_of_another_authority_is_refused(
    start: Start, certificates: Certificates, tmp_path: Path
) -> None:
    running = await start(config=mutual(certificates))
    (tmp_path / "strangers").mkdir()
    stranger = own(Certificates(tmp_path / "strangers"), "client.test")
    tls = Tls(ca=certificates.ca, certificate=stranger.certificate, key=stranger.key, server_name=NAME)
    assert await refusal(running.target, tls) in REFUSED


@pytest.mark.parametrize(
    ("names", "common_name", "expected"),
    [
        (("search.test", "other.test"), "common", "search.test"),
        (("batch@octet.test",), "batch job", "batch job"),
    ],
)
async def test_a_certificate_names_its_holder(
    start: Start, certificates: Certificates, names: tuple[str, ...], common_name: str, expected: str
) -> None:
    running = await start(who, config=mutual(certificates))
    assert await ask(running.target, own(certificates, *names, common_name=common_name)) == expected


@pytest.mark.parametrize("uri", ["spiffe://octet.test/ns/a/sa/b", "https://octet.test/workload"])
async def test_a_uri_names_a_workload(start: Start, certificates: Certificates, uri: str) -> None:
    running = await start(who, config=mutual(certificates))
    certificate, key = certificates.issue_uri("client", uri)
    tls = Tls(ca=certificates.ca, certificate=certificate, key=key, server_name=NAME)
    assert await ask(running.target, tls) == uri


async def test_keys_are_asked_for_beside_certificates(start: Start, certificates: Certificates) -> None:
    running = await start(who, config=mutual(certificates, api_keys="search k"))
    tls = own(certificates, "client.test")
    assert await refusal(running.target, tls) == grpc.StatusCode.UNAUTHENTICATED
    assert await ask(running.target, tls, "k") == "search"


async def test_new_authorities_for_clients_are_followed(
    start: Start, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.01)
    (tmp_path / "next").mkdir()
    following = Certificates(tmp_path / "next")
    stranger = own(following, "client.test")
    ca = certificates.copy_authority("of-servers.pem")
    tls = Tls(ca=ca, certificate=stranger.certificate, key=stranger.key, server_name=NAME)
    running = await start(who, config=mutual(certificates))
    assert await refusal(running.target, tls) in REFUSED
    with logged("TLS certificates reloaded") as message:
        shutil.copyfile(following.ca, certificates.ca)
        await asyncio.wait_for(message, 10)
    assert await ask(running.target, tls) == "client.test"


def test_a_server_does_not_start_without_its_certificate(tmp_path: Path) -> None:
    config = ServerConfig(port=0, tls_certificate=str(tmp_path / "c"), tls_key=str(tmp_path / "k"))
    with pytest.raises(StartupError, match=r"cannot read .*/c: No such file"):
        Server(config)
