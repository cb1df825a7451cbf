"""The log of a real server process."""

import json
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from octet.v1 import chat_service_pb2_grpc
from tests.integration.conftest import ask
from tests.integration.processes import server_process

TRACE = "0af7651916cd43dd8448eb211c80319c"


def chat(target: str, **metadata: str) -> Any:
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        return stub.Chat(ask("tell me a secret"), metadata=tuple(metadata.items()), timeout=20)


def lines_of(*arguments: str) -> list[dict[str, Any]]:
    """The log of a server that answered one chat, as JSON."""
    with server_process("echo", *arguments, 'log_format="json"', serving=False) as server:
        target = json.loads(server.read_log_until("serving fake").string)["message"].rpartition(" ")[2]
        parent = f"00-{TRACE}-b7ad6b7169203331-01"
        chat(target, authorization="Bearer k", traceparent=parent, **{"x-request-id": "r1"})
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    return [json.loads(line) for line in server.log]


def test_a_call_is_one_json_line() -> None:
    lines = lines_of("k")
    (line,) = [line for line in lines if "code" in line]
    assert line.pop("time") < line.pop("time", "9")
    assert line.pop("duration_ms") > line.pop("time_to_first_token_ms") > 0
    assert line.pop("message").startswith("/octet.v1.ChatService/Chat OK ")
    assert line == {
        "level": "INFO",
        "logger": "octet",
        "request_id": "r1",
        "key": "default",
        "trace_id": TRACE,
        "span_id": "b7ad6b7169203331",
        "method": "octet.v1.ChatService/Chat",
        "code": "OK",
        "prompt_tokens": 7,
        "cached_tokens": 0,
        "image_tokens": 0,
        "generated_tokens": 4,
    }
    assert "secret" not in json.dumps(lines)


def test_prompts_are_logged_on_request_and_cut() -> None:
    (line,) = [line for line in lines_of("log_prompts=20") if "prompt" in line]
    assert line["prompt"] == "user: tell me a secr"
    assert line["answer"] == "tell me a secret "
    assert line["request_id"] == "r1"


def test_the_level_is_respected() -> None:
    with server_process("echo", 'log_level="warning"', "metrics_port=0", serving=False) as server:
        server.signal(signal.SIGTERM)
        server.wait()
    assert not [line for line in server.log if "INFO" in line]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_full_disk_does_not_stop_the_server(tmp_path: Path, log_format: str) -> None:
    socket = tmp_path / "octet.sock"
    settings = (f'uds="{socket}"', f'log_format="{log_format}"', "metrics_port=0")
    with (
        open("/dev/full", "w") as full,
        server_process("echo", *settings, serving=False, log=full) as server,
    ):
        for _ in range(20):
            assert chat(f"unix:{socket}").candidates[0].message.parts[0].text
        server.signal(signal.SIGTERM)
        assert server.popen.wait(20) == 0
