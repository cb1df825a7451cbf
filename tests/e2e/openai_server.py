"""vLLM's own OpenAI server, started without a word about Octet."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 280


@dataclass(frozen=True, slots=True)
class OpenAiServer:
    """A server that answers: where it is asked to chat, and where it writes its log."""

    chat: str
    log: Path


@contextmanager
def serving(model: str, log: Path, *flags: str) -> Iterator[OpenAiServer]:
    """Serves a model under the name "m"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *flags]
    command += ["--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        _wait_until_serving(server, port, log)
        yield OpenAiServer(f"http://127.0.0.1:{port}/v1/chat/completions", log)
        server.terminate()
        server.wait(timeout=60)
    finally:
        server.kill()
        server.wait()


def _wait_until_serving(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < give_up, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
