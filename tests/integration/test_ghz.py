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
from datetime import UTC, datetime, timedelta
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
    encryption = load.Encryption(Path("ca.pem"), Path("client.pem"), Path("client.key"), "octet.svc")
    config = load.configuration(name, TARGET, descriptors, api_key="secret", encryption=encryption)
    assert config.keys() <= OPTIONS
    assert config["name"] == name
    assert config["call"] in (CHAT, STREAM)
    assert re.fullmatch(r"\d+s", config["timeout"])
    assert "insecure" not in config, "it would win over the certificate"
    files = {"cacert": "ca.pem", "cert": "client.pem", "key": "client.key", "cname": "octet.svc"}
    assert files.items() <= config.items()
    assert config["metadata"] == config["reflect-metadata"] == {"authorization": "Bearer secret"}
    # A rate without `async` is held back by the number of workers, which hides the queue.
    assert ("rps" in config) == (config.get("async") is True) == (name == "open_loop")
    # A run by time cuts its last calls off, unless it is told to wait for them.
    assert "duration" not in config or config["duration-stop"] == "wait"


@pytest.mark.parametrize("name", load.CONFIGS)
def test_files_leave_encryption_to_whoever_runs_them(name: str) -> None:
    """`ghz --config FILE --cacert CA` would otherwise call in plain text."""
    file = json.loads((load.FOLDER / f"{name}.json").read_text())
    assert not file.keys() & {"insecure", "skipTLS", "cacert", "cert", "key", "cname"}
    assert load.configuration(name, TARGET, "reflection")["insecure"] is True


def test_only_what_is_given_is_said() -> None:
    config = load.configuration("unary", TARGET, "reflection", encryption=load.Encryption(Path("ca.pem")))
    assert config["cacert"] == "ca.pem"
    assert not config.keys() & {"insecure", "cert", "key", "cname"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cert", "a", "--key", "b"], "they need --ca"),
        (["--server-name", "octet.svc"], "they need --ca"),
        (["--ca", "c", "--cert", "a"], "--cert and --key together"),
        (["--ca", "c", "--key", "b"], "--cert and --key together"),
    ],
)
def test_half_a_certificate_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        load.main([TARGET, *arguments])
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


def calls(starts: list[float], seconds: float, status: str = "OK") -> list[dict[str, Any]]:
    """The details of calls that began then and took so long, as ghz writes them: by their ends."""
    begin = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
    return [
        {
            # Nanoseconds, as Go prints them.
            "timestamp": (begin + timedelta(seconds=start + seconds)).strftime("%Y-%m-%dT%H:%M:%S.%f789Z"),
            "latency": round(seconds * 1e9),
            "error": "",
            "status": status,
        }
        for start in starts
    ]


def rates(details: list[dict[str, Any]]) -> load.Result:
    return load.read_report("open_loop", {"rps": 1.0, "details": details})


@pytest.mark.parametrize("seconds", [0.1, 10.0, 30.0])
def test_the_tail_does_not_lower_the_rate(seconds: float) -> None:
    """Two calls a second are answered, however long each takes; ghz would say 1.99, 1.7 and 1.3."""
    result = rates(calls([number / 2 for number in range(120)], seconds))
    assert result.sent == pytest.approx(2)
    assert result.rate == pytest.approx(2, rel=0.02)


def test_a_server_that_does_not_keep_up_is_seen() -> None:
    """It ends one in a second where two come."""
    starts = [number / 2 for number in range(120)]
    details = [calls([start], number + 1 - start)[0] for number, start in enumerate(starts)]
    result = rates(details)
    assert result.sent == pytest.approx(2)
    assert result.rate == pytest.approx(1, rel=0.02)


def test_callers_in_a_closed_loop_send_what_is_ended() -> None:
    """Eight callers, two seconds a call."""
    details = [call for turn in range(10) for call in calls([turn * 2.0 + n / 4 for n in range(8)], 2.0)]
    assert rates(details).rate == pytest.approx(4, rel=0.02)


def test_what_failed_is_no_throughput() -> None:
    starts = [number / 2 for number in range(120)]
    result = rates(calls(starts[::2], 1.0) + calls(starts[1::2], 0.01, "ResourceExhausted"))
    assert result.rate == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("details", [None, [], calls([0.0], 1.0), calls([0.0, 0.0], 1.0)])
def test_too_few_calls_have_no_rate(details: Any) -> None:
    result = rates(details)
    assert (result.rate, result.sent) == (None, None)
    assert "too few of too few sent" in load.line(result)


def test_nothing_ended_before_the_last_was_sent() -> None:
    result = rates(calls([0.0, 0.5, 1.0], 5.0))
    assert result.rate is None
    assert result.sent == pytest.approx(2)


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
    "details": [
        {{"timestamp": f"2026-11-01T12:00:{{n:02}}.123456789+02:00", "latency": 500000000, "status": "OK"}}
        for n in range(10)
    ],
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
    assert all("10 OK" in line and "p95 0.095 s" in line for line in lines)
    assert all(" 0.94/s of  1.00/s sent" in line for line in lines), "8 ends in 8.5 s"


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
