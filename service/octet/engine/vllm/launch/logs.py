"""vLLM's own log, in all of its processes."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from octet.engine.vllm.launch import folders

_FORMATTER = "octet.server.logs.JsonFormatter"
_HANDLER = "octet.server.logs.StderrHandler"

_files: list[str] = []


def configure_logging(log_format: str, level: str) -> None:
    """Makes vLLM log from `level` up, in Octet's format where that is JSON and in its own text otherwise.

    Call it before vLLM is imported. What the environment says about vLLM's log stays as it is.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", level.upper())
    if log_format != "json" or "VLLM_LOGGING_CONFIG_PATH" in os.environ:
        return
    # The engine's processes read it when they start; it goes with this process.
    path = str(folders.make() / "logging.json")
    _files.append(path)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(_config(os.environ["VLLM_LOGGING_LEVEL"].upper()), file)
    os.environ["VLLM_LOGGING_CONFIG_PATH"] = path


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps vLLM from reporting, as it is imported and asked, on what it finds and lacks on this machine, and
    transformers, which writes past the log's format, on what it reads.
    """
    logs = [logging.getLogger(name) for name in ("vllm", "transformers")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def in_format(line: bytes) -> bytes:
    """A line that a process of the engine wrote, as the log wants it.

    What is written past vLLM's log, by libraries and at an interpreter's end, becomes JSON here.
    """
    if not _files or line.startswith(b"{"):
        return line
    record = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "INFO",
        "logger": "engine.output",
        "message": line.decode(errors="replace").rstrip("\n"),
    }
    return f"{json.dumps(record, ensure_ascii=False)}\n".encode()


def error_lines(line: str) -> list[str] | None:
    """The lines of an error that a process logged as one JSON object; None for a line that is none."""
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("level") not in ("ERROR", "CRITICAL"):
        return None
    return f"{record.get('message', '')}\n{record.get('exception', '')}".splitlines()


def _config(level: str) -> dict[str, object]:
    """As `logging.config.dictConfig` takes it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": _FORMATTER}},
        "handlers": {"stderr": {"class": _HANDLER, "formatter": "json", "level": level}},
        "loggers": {"vllm": {"handlers": ["stderr"], "level": level, "propagate": False}},
    }
