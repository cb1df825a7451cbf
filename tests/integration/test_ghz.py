"""The configurations of ghz, and what reads its report.

Where ghz is not installed, each configuration is checked against the options that it
has, its data is rendered as ghz would, read as the real messages, and sent to a real server. What ghz would
report is scripted.
"""

import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, json_format

from bench.ghz import run as load
from octet.config import ServerConfig
from octet.v1 import chat_service_pb2
from tests.integration.conftest import Running, Start, rest_of
from tests.integration.fake_engine import call_tool, echo

# What the configuration of ghz 0.121 has; it ignores every other name without a word.
OPTIONS = {
    *("proto", "protoset", "call", "cacert", "cert", "key", "skipTLS", "cname", "authority", "insecure"),
    *("total", "concurrency", "connections", "rps", "async", "duration", "duration-stop", "max-duration"),
    *("timeout", "data", "data-file", "metadata", "metadata-file", "import-paths", "name", "tags", "host"),
    *("reflect-metadata", "max-recv-message-size", "max-send-message-size", "count-errors", "skipFirst"),
}
CHAT, STREAM = "octet.v1.ChatService.Chat", "octet.v1.ChatService.StreamChat"
TARGET = "127.0.0.1:50051"


def render(data: Any, number: int) -> list[dict[str, Any]]:
    """The request, or requests, that ghz makes of a configuration's data for one call: a Go template."""

    def substitute(action: re.Match[str]) -> str:
        words = action[1].split()
        if words == [".RequestNumber"]:
            return str(number)
        if words[0] == "randomString" and len(words) == 2:
            return f"{number:x}".rjust(int(words[1]), "x")
        raise AssertionError(f"not an action that ghz is known to have: {action[0]}")

    # A quotation mark inside an action would have been escaped by JSON, and ghz would send the text as it is.
    text = re.sub(r"\{\{(.*?)\}\}", substitute, json.dumps(data))
    rendered = json.loads(text)
    return rendered if isinstance(rendered, list) else [rendered]


def requests(name: str, calls: int) -> Iterator[tuple[str, chat_service_pb2.ChatRequest]]:
    """The methods and requests of a configuration's first calls; ghz takes a list's elements in turn."""
    config = load.configuration(name, TARGET, "reflection")
    for number in range(calls):
        rendered = render(config["data"], number)
        request = chat_service_pb2.ChatRequest()
        json_format.ParseDict(rendered[number % len(rendered)], request)
        yield config["call"], request


@pytest.mark.parametrize("name", load.CONFIGS)
@pytest.mark.parametrize("descriptors", load.DESCRIPTORS)
def test_options_are_those_of_ghz(name: str, descriptors: str) -> None:
    config = load.configuration(name, TARGET, descriptors, api_key="secret", ca=Path("ca.pem"))
    assert config.keys() <= OPTIONS
    assert config["name"] == name
    assert config["call"] in (CHAT, STREAM)
    assert re.fullmatch(r"\d+s", config["timeout"])
    assert "insecure" not in config, "it would win over the certificate"
    assert config["metadata"] == config["reflect-metadata"] == {"authorization": "Bearer secret"}
    # A rate without `async` is held back by the number of workers, which hides the queue.
    assert ("rps" in config) == (config.get("async") is True) == (name == "open_loop")
    # A run by time cuts its last calls off, unless it is told to wait for them.
    assert "duration" not in config or config["duration-stop"] == "wait"


def test_there_is_one_for_each_kind_of_traffic() -> None:
    assert load.CONFIGS == ("open_loop", "picture", "stream", "tool", "unary")


@pytest.mark.parametrize("name", load.CONFIGS)
def test_no_two_prompts_share_a_prefix(name: str) -> None:
    """The prefix cache would make the server look faster than it is."""
    firsts = [request.messages[0].parts[0].text for _, request in requests(name, 50)]
    words = [text.split()[0] for text in firsts]
    assert len(set(words)) == 50


def test_pictures_differ() -> None:
    pictures = {request.messages[0].parts[1].image.data for _, request in requests("picture", 6)}
    assert len(pictures) == 6


@pytest.mark.parametrize("name", load.CONFIGS)
async def test_a_server_takes_them(start: Start, name: str) -> None:
    running: Running = await start(call_tool if name == "tool" else echo)
    for call, request in requests(name, 6):
        if call == CHAT:
            answer = await running.chat.Chat(request)
            assert answer.candidates
        else:
            assert await rest_of(running.chat.StreamChat(request))
    assert len(running.engine.asked) == 6


def test_descriptors_without_reflection_hold_the_methods(tmp_path: Path) -> None:
    """--proto and --protoset: compiled, and read, as ghz does."""
    config = load.configuration("unary", TARGET, "proto")
    compiled = tmp_path / "compiled"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_out={compiled}"),
            *(f"-I{path}" for path in config["import-paths"]),
            config["proto"],
        ],
        check=True,
    )
    for file in (compiled, Path(load.configuration("unary", TARGET, "protoset")["protoset"])):
        described = descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes())
        methods = {
            f"{unit.package}.{service.name}.{method.name}"
            for unit in described.file
            for service in unit.service
            for method in service.method
        }
        assert {CHAT, STREAM} <= methods


SCRIPTED = """#!{python}
import json, sys
config = json.load(open(sys.argv[sys.argv.index("--config") + 1]))
assert sys.argv[sys.argv.index("--format") + 1] == "json"
if config["name"] == {breaks!r}:
    sys.exit("rpc error: connection refused")
report = {{
    "count": 10, "rps": 12.5, "statusCodeDistribution": {statuses!r}.get(config["name"], {{"OK": 10}}),
    "latencyDistribution": [{{"percentage": p, "latency": p * 1000000}} for p in (50, 95, 99)],
}}
json.dump(report, open(sys.argv[sys.argv.index("--output") + 1], "w"))
"""


@pytest.fixture
def ghz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Installs a ghz that reports what is asked of it, and exits with 0 as the real one does."""

    def install(statuses: dict[str, Any] | None = None, breaks: str = "") -> None:
        program = tmp_path / "ghz"
        program.write_text(SCRIPTED.format(python=sys.executable, statuses=statuses or {}, breaks=breaks))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("GHZ", str(program))

    monkeypatch.delenv("OCTET_API_KEY", raising=False)
    return install  # type: ignore[return-value]


def test_all_ok_passes(ghz: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ghz()
    assert load.main([TARGET]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(load.CONFIGS)
    assert all("10 OK" in line and "p95 0.095 s" in line and "12.50/s" in line for line in lines)


@pytest.mark.parametrize(
    "statuses", [{"OK": 9, "Unavailable": 1}, {"Unavailable": 10}, {}, None, {"OK": 9, "Canceled": 1}]
)
def test_anything_but_ok_fails(ghz: Any, statuses: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ghz({"stream": statuses})
    assert load.main([TARGET]) == 1
    said = capsys.readouterr()
    assert said.err == "load: not every call ended OK: stream\n"
    assert len(said.out.splitlines()) == len(load.CONFIGS), "the others are run all the same"


def test_ghz_that_does_not_start_is_one_line(ghz: Any) -> None:
    ghz(breaks="unary")
    with pytest.raises(SystemExit, match=r"^load: ghz failed on unary: rpc error: connection refused$"):
        load.main([TARGET, "--config", "unary"])


def test_without_ghz_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GHZ", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert load.main([TARGET]) == 1
    said = capsys.readouterr().err
    assert "go install github.com/bojand/ghz" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(shutil.which("ghz") is None, reason="ghz is not installed")
@pytest.mark.parametrize("descriptors", load.DESCRIPTORS)
async def test_the_real_ghz(start: Start, descriptors: str) -> None:
    import asyncio

    running = await start(config=ServerConfig(port=0))
    config = load.configuration("unary", running.target, descriptors) | {"total": 20}
    result = await asyncio.to_thread(load.run, "ghz", config)
    assert result.statuses == {"OK": 20}
