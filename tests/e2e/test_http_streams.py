"""Streams over HTTP through the real Envoy, before a scripted engine: their forms, and how they end."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from octet.v1 import chat_service_pb2
from tests.e2e.envoy import ORIGIN, envoy
from tests.e2e.json_client import PARTIAL_FILE, asking, chat, curl, is_whole, objects
from tests.integration.conftest import ask
from tests.integration.processes import Process, server_process
from tests.openapi import check
from tools.openapi import TARGET

SAID = chat("one two")


@contextmanager
def behind_envoy(script: str, folder: Path, *settings: str) -> Iterator[tuple[Process, str]]:
    """A server and the address of an Envoy before it."""
    with server_process(script, *settings) as server:
        port = int(server.target.rpartition(":")[2])
        with envoy("http_json.yaml", [port], folder) as address:
            yield server, address


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with behind_envoy("echo", tmp_path_factory.mktemp("envoy")) as (_, address):
        yield f"http://{address}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat:stream", SAID),
        ("/v1/completions:stream", {"prompts": [{"parts": [{"text": "one two"}]}]}),
    ],
)
def test_a_stream_as_lines_and_as_events(echo: str, path: str, body: Any) -> None:
    status, headers, lines = curl(echo + path, body=body)
    assert (status, headers["content-type"]) == (200, "application/json")
    status, headers, events = curl(echo + path, "--header", "accept: text/event-stream", body=body)
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    *sent, rest = events.split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in sent)
    by_events = [json.loads(event.removeprefix("data: ")) for event in sent]
    by_lines = objects(lines)
    assert is_whole(by_lines)
    for chunks in (by_lines, by_events):
        del chunks[0]["id"], chunks[0]["create_time"]
        assert headers["x-request-id"]
    assert by_events == by_lines


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize(
    ("path", "body", "status", "code", "message"),
    [
        ("/v1/chat:stream", {"messages": []}, 400, 3, "messages: is empty"),
        ("/v1/chat:stream", SAID | {"model": "another"}, 404, 5, "the model 'another' is not served here"),
        ("/v1/chat:stream", chat("one two", temperature=-1), 400, 3, "sampling.temperature: "),
        ("/v1/completions:stream", {"prompts": []}, 400, 3, "prompts: "),
        ("/v1/completions:stream", {"prompts": [{"parts": [{"text": "one"}]}, {}]}, 400, 3, "prompts[1]"),
    ],
)
def test_what_is_wrong_with_a_request_for_a_stream_has_its_own_status(
    echo: str, accept: str, path: str, body: Any, status: int, code: int, message: str
) -> None:
    """HTTP follows the first thing that the server says: a status alone until the engine has the request."""
    found, _, text = curl(echo + path, "--header", f"accept: {accept}", body=body)
    assert found == status
    error = json.loads(text)
    assert error["code"] == code
    assert error["message"].startswith(message)


def test_what_is_refused_before_has_its_own_status(tmp_path: Path) -> None:
    with behind_envoy("echo", tmp_path, "secret") as (_, address):
        status, _, text = curl(f"http://{address}/v1/chat:stream", body=SAID)
    assert (status, json.loads(text)["code"]) == (401, 16)


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize(
    ("end", "looks_whole"), [("the engine dies", True), ("a deadline", True), ("the server is killed", False)]
)
def test_a_stream_that_was_cut_off_has_no_usage_at_its_end(
    tmp_path: Path, end: str, looks_whole: bool, accept: str
) -> None:
    deadline = ("--header", "grpc-timeout: 700m") if end == "a deadline" else ()
    with behind_envoy("endless", tmp_path) as (server, address):
        url = f"http://{address}/v1/chat:stream"
        with asking(url, "--header", f"accept: {accept}", *deadline, body=SAID) as process:
            assert process.stdout is not None
            lines = []
            while not any("first " in line for line in lines):
                lines.append(process.stdout.readline())
            if end == "the engine dies":
                server.signal(signal.SIGUSR1)
            elif end == "the server is killed":
                server.popen.kill()
            lines += process.stdout.readlines()
            assert process.wait(60) == (0 if looks_whole else PARTIAL_FILE)
    chunks = objects("".join(line.removeprefix("data: ") for line in lines))
    assert len(chunks) == 2
    assert not is_whole(chunks)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TARGET.read_text())
    return found


def test_answers_are_as_the_document_says(echo: str, document: dict[str, Any]) -> None:
    _, _, answer = curl(f"{echo}/v1/chat", body=SAID)
    check(document, "ChatResponse", json.loads(answer))
    _, _, lines = curl(f"{echo}/v1/chat:stream", body=SAID)
    for chunk in objects(lines):
        check(document, "ChatChunk", chunk)
    _, _, models = curl(f"{echo}/v1/models")
    check(document, "ListModelsResponse", json.loads(models))
    status, _, error = curl(f"{echo}/v1/chat", body={"messages": []})
    assert status == 400
    check(document, "google.rpc.Status", json.loads(error))


def test_envoy_knows_every_path_of_the_document(echo: str, document: dict[str, Any]) -> None:
    for path, verbs in document["paths"].items():
        for verb in verbs:
            body = None if verb == "get" else {}
            status, _, text = curl(echo + path.replace("{name}", "fake"), body=body)
            # The model of this server makes no vectors.
            assert status in (200, 400) or (status == 501 and "embed" in path), (path, status, text)


def test_pages_of_named_origins_may_ask(echo: str) -> None:
    preflight = ("--request", "OPTIONS", "--header", "access-control-request-method: POST")
    wanted = "authorization,content-type,x-grpc-web"
    headers_wanted = ("--header", f"access-control-request-headers: {wanted}")
    _, headers, _ = curl(f"{echo}/v1/chat", *preflight, *headers_wanted, "--header", f"origin: {ORIGIN}")
    assert headers["access-control-allow-origin"] == ORIGIN
    assert set(wanted.split(",")) <= set(headers["access-control-allow-headers"].split(", "))
    assert "POST" in headers["access-control-allow-methods"]
    _, headers, _ = curl(f"{echo}/v1/models", "--header", f"origin: {ORIGIN}")
    assert headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in headers["access-control-expose-headers"]


@pytest.mark.parametrize("origin", ["https://other.example.com", "http://app.example.com", "null"])
def test_pages_of_other_origins_may_not(echo: str, origin: str) -> None:
    preflight = ("--request", "OPTIONS", "--header", "access-control-request-method: POST")
    for arguments in (preflight, ()):
        _, headers, _ = curl(f"{echo}/v1/models", *arguments, "--header", f"origin: {origin}")
        assert not [name for name in headers if name.startswith("access-control")]


def grpc_web(address: str, message: bytes, folder: Path, *arguments: str) -> bytes:
    """The body that a call of gRPC-Web gets."""
    file = folder / "message"
    file.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    command = ["curl", "--silent", *arguments, f"{address}/octet.v1.ChatService/StreamChat"]
    command += ["--header", "content-type: application/grpc-web+proto", "--data-binary", f"@{file}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout


def frames(body: bytes) -> list[tuple[int, bytes]]:
    """The flags and the content of each frame."""
    found = []
    while body:
        end = 5 + int.from_bytes(body[1:5], "big")
        found.append((body[0], body[5:end]))
        body = body[end:]
    return found


def test_grpc_web_ends_with_a_frame_of_trailers(echo: str, tmp_path: Path) -> None:
    *messages, (flags, trailers) = frames(grpc_web(echo, ask("one two").SerializeToString(), tmp_path))
    chunks = [chat_service_pb2.ChatChunk.FromString(content) for _, content in messages]
    assert "".join(delta.text for chunk in chunks for delta in chunk.deltas) == "one two "
    assert flags == 0x80
    assert b"grpc-status:0" in trailers.replace(b" ", b"")


def test_grpc_web_says_how_a_stream_was_cut_off(tmp_path: Path) -> None:
    with behind_envoy("endless", tmp_path) as (_, address):
        deadline = ("--header", "grpc-timeout: 500m")
        body = grpc_web(f"http://{address}", ask().SerializeToString(), tmp_path, *deadline)
    *_, (flags, trailers) = frames(body)
    assert flags == 0x80
    assert b"grpc-status:4" in trailers.replace(b" ", b"")
