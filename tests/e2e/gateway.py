"""The real SMG gateway, started in front of workers."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def gateway(workers: Sequence[str], log_file: Path, *flags: str) -> Iterator[str]:
    """Runs a gateway that routes over `workers`, given as host:port; gives its URL once it knows them all."""
    port, metrics_port = _free_port(), _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "smg", "launch", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)]
    command += ["--worker-urls", *(f"grpc://{worker}" for worker in workers), *flags]
    with log_file.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while len([worker for worker in _workers(url) if worker["is_healthy"]]) < len(workers):
            assert process.poll() is None, log_file.read_text()
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def _workers(url: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{url}/workers") as answer:
            workers: list[dict[str, Any]] = json.load(answer)["workers"]
    except (urllib.error.URLError, ConnectionError):
        return []
    return workers


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
