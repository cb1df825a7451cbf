import json
import os

import pytest

from octet.engine.vllm.launch import logs


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what is configured here goes with the test.
    for name in ("VLLM_LOGGING_LEVEL", "VLLM_LOGGING_CONFIG_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(logs, "_files", [])


def test_vllm_gets_the_level_and_in_json_our_formatter() -> None:
    logs.configure_logging("json", "warning")
    with open(os.environ["VLLM_LOGGING_CONFIG_PATH"]) as file:
        config = json.load(file)
    assert config["loggers"]["vllm"]["level"] == "WARNING"
    assert config["formatters"]["json"] == {"()": "octet.server.logs.JsonFormatter"}


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "mine.json")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    logs.configure_logging("json", "info")
    assert os.environ["VLLM_LOGGING_CONFIG_PATH"] == "mine.json"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_what_is_no_json_becomes_json_only_where_json_is_asked_for() -> None:
    assert logs.in_format(b"Loading\n") == b"Loading\n"
    logs.configure_logging("json", "info")
    assert json.loads(logs.in_format(b"Loading \xff\n"))["message"] == "Loading \ufffd"
    assert logs.in_format(b'{"a": 1}\n') == b'{"a": 1}\n'


def test_the_lines_of_an_error_are_found_in_its_json() -> None:
    record = {"level": "ERROR", "message": "failed to start", "exception": "Traceback\nValueError: no room"}
    assert logs.error_lines(json.dumps(record)) == ["failed to start", "Traceback", "ValueError: no room"]
    assert logs.error_lines(json.dumps(record | {"level": "INFO"})) is None
    assert logs.error_lines("{broken") is None
    assert logs.error_lines("ValueError: no room") is None
