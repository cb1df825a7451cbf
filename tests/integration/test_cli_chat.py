"""`octet chat` as a process, against a real server."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.processes import ROOT, Process, server_process

OCTET = [sys.executable, "-m", "octet"]


def chat(*arguments: str, key: str | None = None, typed: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "service"} | ({"OCTET_API_KEY": key} if key else {})
    return subprocess.run(
        [*OCTET, "chat", *arguments],
        cwd=ROOT,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def echoing() -> Iterator[Process]:
    with server_process("echo") as server:
        yield server


def test_answer_alone_on_standard_output(echoing: Process) -> None:
    result = chat("--target", echoing.target, "one two")
    assert (result.returncode, result.stdout, result.stderr) == (0, "one two \n", "")


def test_pictures(echoing: Process, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.jpg")]
    for file in files:
        Image.new("RGB", (8, 8), "red").save(file)
    images = [argument for file in files for argument in ("--image", str(file))]
    result = chat("--target", echoing.target, *images, "what?")
    assert (result.returncode, result.stdout) == (0, "what? \n")


def test_wrong_picture_is_named_by_field(echoing: Process, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    result = chat("--target", echoing.target, "--image", str(tmp_path / "a.png"), "what?")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("octet: error: INVALID_ARGUMENT: messages[0].parts[0].image.data: ")
    assert result.stderr.count("\n") == 1


def test_unknown_model(echoing: Process) -> None:
    result = chat("--target", echoing.target, "--model", "other", "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert (
        result.stderr
        == "octet: error: NOT_FOUND: the model 'other' is not served here; use fake, fake-alias\n"
    )


def test_no_server() -> None:
    result = chat("--target", "127.0.0.1:1", "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "octet: error: no server answers at 127.0.0.1:1; "
        "start one with `octet serve`, or name another with --target\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--image", "/nonexistent.png", "hi"),
        ("--certificate", __file__, "hi"),
        ("--ca", "/nonexistent.pem", "hi"),
        ("--tools", "/nonexistent.json", "hi"),
        ("--max-tokens", "many", "hi"),
        ("--no-such-flag", "hi"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = chat(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Error: " in result.stderr


@pytest.mark.parametrize("content", ["{", '{"name": "f"}', "[1]", '[{"name": 7}]'])
def test_wrong_tools_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "tools.json").write_text(content)
    result = chat("--target", "127.0.0.1:1", "--tools", str(tmp_path / "tools.json"), "hi")
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


def test_tool_calls_are_json_lines(tmp_path: Path) -> None:
    tools = [{"name": "get_weather", "parameters": {"type": "object"}}]
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    with server_process("call_tool") as server:
        result = chat("--target", server.target, "--tools", str(tmp_path / "tools.json"), "weather?")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"id": "call_1", "name": "get_weather", "arguments": {"city": "Oslo"}}


def test_key() -> None:
    with server_process("echo", "s3cret") as server:
        refused = chat("--target", server.target, "hi")
        assert refused.returncode == 1
        assert refused.stderr.startswith("octet: error: UNAUTHENTICATED: ")
        assert "OCTET_API_KEY" in refused.stderr
        assert chat("--target", server.target, "hi", key="s3cret").stdout == "hi \n"
        assert chat("--target", server.target, "--api-key", "s3cret", "hi").stdout == "hi \n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_text_streams_and_the_end_of_the_client_ends_the_request(number: signal.Signals) -> None:
    with server_process("endless") as server:
        client = subprocess.Popen(
            [*OCTET, "chat", "--target", server.target, "hi"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert client.stdout is not None
        assert client.stdout.read(6) == "first "  # while the answer is unfinished
        client.send_signal(number)
        _, log = client.communicate(timeout=20)
        assert client.returncode == (130 if number is signal.SIGINT else -signal.SIGKILL)
        assert "Traceback" not in log
        server.read_log_until("/octet.v1.ChatService/StreamChat CANCELLED ")


def test_whole_answers_as_json(echoing: Process) -> None:
    result = chat("--target", echoing.target, "--json", "one two")
    answer = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert answer["candidates"][0]["message"]["parts"] == [{"text": "one two "}]
    assert answer["candidates"][0]["finish_reason"] == "FINISH_REASON_STOP"


def test_a_conversation_on_standard_input(echoing: Process, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    typed = f"one\n\n/image {tmp_path / 'a.png'}\n//two\n/reset\nthree\n/quit\nfour\n"
    result = chat("--target", echoing.target, "--json", typed=typed)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    said = [answer["candidates"][0]["message"]["parts"][0]["text"] for answer in answers]
    assert (result.returncode, said) == (0, ["one ", "/two ", "three "])


def test_an_answer_begins_with_what_is_given(echoing: Process, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    picture = ("--image", str(tmp_path / "a.png"), "--system", "Be brief.")
    result = chat("--target", echoing.target, *picture, "--begin", "one two", "what?")
    # It gives the last message back, which is the beginning.
    assert (result.returncode, result.stdout, result.stderr) == (0, "one two \n", "")
    assert "--begin goes with a TEXT" in chat("--target", echoing.target, "--begin", "a").stderr


def test_a_conversation_goes_on_with_an_answer(echoing: Process) -> None:
    result = chat(
        "--target", echoing.target, typed="/continue\none\n/continue\n/continue\n/reset\n/continue\n"
    )
    # Each time it gives back all of the answer that it is to go on with.
    assert (result.returncode, result.stdout.splitlines()) == (0, ["one ", "one ", "one one "])
    assert result.stderr.count("go on with an answer that was cut off") == 2


def test_commands_and_pictures_that_do_not_exist_end_no_conversation(echoing: Process) -> None:
    result = chat("--target", echoing.target, typed="/nonsense\n/image /nonexistent.png\nlost\nstill here\n")
    assert (result.returncode, result.stdout) == (0, "still here \n")
    assert "/image FILE" in result.stderr
    assert "octet: /nonexistent.png: No such file or directory" in result.stderr


def test_a_conversation_asks_for_the_results_of_calls(tmp_path: Path) -> None:
    tools = [{"name": "get_weather", "parameters": {"type": "object"}}]
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    with server_process("use_tool") as server:
        arguments = ("--target", server.target, "--tools", str(tmp_path / "tools.json"))
        result = chat(*arguments, typed="weather?\nclear skies\n")
    call, said = result.stdout.splitlines()
    assert json.loads(call)["name"] == "get_weather"
    assert said == "It gave clear skies."


def test_pictures_go_with_the_results_of_calls(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "tools.json").write_text(json.dumps([{"name": "get_weather", "strict": True}]))
    typed = f"weather?\n/image /nonexistent.png\nlost\n/image {tmp_path / 'a.png'}\n//a shot\n"
    with server_process("use_tool") as server:
        arguments = ("--tools", str(tmp_path / "tools.json"), "--allowed-tool", "get_weather")
        result = chat("--target", server.target, *arguments, typed=typed)
    assert result.stdout.splitlines()[1:] == ["It gave /a shot and a picture."]
    assert result.stderr == "octet: /nonexistent.png: No such file or directory\n"


def test_a_server_that_is_not_encrypted(echoing: Process) -> None:
    result = chat("--target", echoing.target, "--tls", "--timeout", "2", "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("octet: error: ")
