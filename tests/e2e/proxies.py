"""nginx and HAProxy, both of which Debian has, started on the configurations that we publish."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

# Kinds of files for which nginx wants a directory, whether or not it will write any.
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

DEPLOY = Path(__file__).parents[2] / "deploy"


@contextmanager
def nginx(upstream_ports: Sequence[int], directory: Path) -> Iterator[str]:
    """Runs nginx before servers on `upstream_ports`; gives its host and port. Skips where there is none."""
    program = _find("nginx")
    text = (DEPLOY / "nginx" / "octet.conf").read_text()
    port = free_port()
    text = _with_servers(text, r" *server octet-\d[^;]*?:50051(?P<rest>[^;]*;\n)", upstream_ports)
    text, replaced = re.subn(r"listen 50051", f"listen 127.0.0.1:{port}", text)
    assert replaced == 1
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;\n"
        "events { worker_connections 1024; }\nhttp {\naccess_log off;\n"
        + "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in _TEMPORARY)
        + f"{text}}}\n"
    )
    with _listening([program, "-c", str(config)], port, directory):
        yield f"127.0.0.1:{port}"


def take_out_of_nginx(upstream_port: int, directory: Path) -> None:
    """Has the nginx of `directory` reload a configuration without one of its servers."""
    config = directory / "nginx.conf"
    text, removed = re.subn(rf" *server 127.0.0.1:{upstream_port} .*\n", "", config.read_text())
    assert removed == 1
    config.write_text(text)
    os.kill(int((directory / "pid").read_text()), signal.SIGHUP)


@contextmanager
def haproxy(upstream_ports: Sequence[int], directory: Path) -> Iterator[str]:
    """Runs HAProxy before servers on `upstream_ports`; gives its host and port. Skips where there is none."""
    program = _find("haproxy")
    text = (DEPLOY / "haproxy" / "octet.cfg").read_text()
    port = free_port()
    text = _with_servers(text, r" *server-template octet- 16 octet:50051(?P<rest>\n)", upstream_ports)
    text, replaced = re.subn(r"bind :50051", f"bind 127.0.0.1:{port}", text)
    assert replaced == 1
    config = directory / "haproxy.cfg"
    config.write_text(text)
    with _listening([program, "-db", "-f", str(config)], port, directory):
        yield f"127.0.0.1:{port}"


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _find(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def _with_servers(text: str, line: str, ports: Sequence[int]) -> str:
    """The configuration with a line for each of our servers in place of those that it names."""
    lines = list(re.finditer(line, text))
    name = "server octet-{i} 127.0.0.1:{port}" if "haproxy" in text.lower() else "server 127.0.0.1:{port}"
    servers = "".join(f"    {name.format(i=i, port=port)}{lines[0]['rest']}" for i, port in enumerate(ports))
    return text[: lines[0].start()] + servers + text[lines[-1].end() :]


@contextmanager
def _listening(command: list[str], port: int, directory: Path) -> Iterator[None]:
    log_file = directory / "log"
    with log_file.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not _is_open(port):
            assert process.poll() is None, log_file.read_text()
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
