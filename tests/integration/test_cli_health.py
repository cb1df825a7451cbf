"""`octet health` against real servers: what it prints, and its exit status."""

import asyncio
import sys
from pathlib import Path

import pytest
import trustme

from octet.config import ServerConfig
from tests.integration.conftest import Start


async def health(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    import os

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "octet", "health", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_server_that_serves(start: Start) -> None:
    running = await start(config=ServerConfig(port=0, api_key="secret"))
    assert await health("--target", running.target) == (0, "SERVING\n", "")
    assert await health(OCTET_HEALTH_TARGET=running.target) == (0, "SERVING\n", "")


async def test_a_server_whose_engine_is_not_there_yet(start: Start) -> None:
    running = await start(attach=False)
    assert await health("--target", running.target) == (1, "NOT_SERVING\n", "")


async def test_one_service(start: Start) -> None:
    running = await start()
    assert await health("--target", running.target, "--service", "octet.v1.ChatService") == (
        0,
        "SERVING\n",
        "",
    )
    status, out, err = await health("--target", running.target, "--service", "no.such.Service")
    assert (status, out) == (1, "")
    assert "NOT_FOUND" in err
    assert err.count("\n") == 1


async def test_nobody_there(unused_tcp_port: int) -> None:
    status, out, err = await health("--target", f"127.0.0.1:{unused_tcp_port}", "--timeout", "5")
    assert (status, out) == (1, "")
    assert err.startswith(f"octet: error: 127.0.0.1:{unused_tcp_port}: UNAVAILABLE")
    assert err.count("\n") == 1


async def test_tls_with_a_clients_certificate(start: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    files = {name: str(tmp_path / name) for name in ("ca", "server", "server-key", "client", "client-key")}
    authority.cert_pem.write_to_path(files["ca"])
    for name, issued in (
        ("server", authority.issue_cert("octet.example")),
        ("client", authority.issue_cert("probe.example")),
    ):
        issued.cert_chain_pems[0].write_to_path(files[name])
        issued.private_key_pem.write_to_path(files[f"{name}-key"])
    running = await start(
        config=ServerConfig(
            port=0,
            tls_certificate=files["server"],
            tls_key=files["server-key"],
            tls_client_ca=files["ca"],
        )
    )
    trust = ("--target", running.target, "--ca", files["ca"], "--server-name", "octet.example")
    own = ("--certificate", files["client"], "--key", files["client-key"])
    assert await health(*trust, *own) == (0, "SERVING\n", "")
    status, _, err = await health(*trust)
    assert (status, err.count("\n")) == (1, 1)


@pytest.mark.parametrize("wrong", [("--certificate",), ("--key",)])
async def test_half_of_a_certificate(wrong: tuple[str], tmp_path: Path) -> None:
    (tmp_path / "half.pem").write_text("half")
    status, _, err = await health(*wrong, str(tmp_path / "half.pem"))
    assert status == 2
    assert "go together" in err
