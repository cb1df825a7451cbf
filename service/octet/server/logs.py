"""The server's log: lines on standard error, in text or JSON, each with the call that it belongs to.

A line is written by a thread, so that nobody waits for a disk or a pipe. What cannot be written, because the
disk is full or the reader of the pipe has stopped, is dropped and counted.
"""

import json
import logging
import logging.handlers
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace

from octet.config.telemetry import TelemetryConfig
from octet.rpc import call
from octet.telemetry.metrics import LOG_LINES_DROPPED

QUEUED_LINES = 10_000
"""Lines that may wait to be written; more are dropped."""

FLUSH_SECONDS = 2.0
"""How long the end of the server waits for the lines that are left."""

_TEXT = "%(asctime)s %(levelname)s %(name)s%(call)s: %(message)s%(more)s"
_STDERR = 2

# The line of a call says these by itself.
_IN_THE_MESSAGE = {"method", "code", "duration_ms"}


class CallFilter(logging.Filter):
    """Adds to a record's `fields` which call it belongs to, by request id, key and trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        fields: dict[str, Any] = {}
        if request_id := call.request_id.get():
            fields["request_id"] = request_id
        if caller := call.caller.get():
            fields["key"] = caller
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            fields["trace_id"] = trace.format_trace_id(span.trace_id)
            fields["span_id"] = trace.format_span_id(span.span_id)
        record.fields = fields | getattr(record, "fields", {})
        return True


class TextFormatter(logging.Formatter):
    """Lines for people: the request id in brackets, the record's other fields as name=value behind it."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """One record's lines; an exception's traceback follows the first."""
        fields = dict(getattr(record, "fields", {}))
        request_id = fields.pop("request_id", "")
        record.call = f" [{request_id}]" if request_id else ""
        record.more = "".join(
            f" {name}={_text(value)}" for name, value in fields.items() if name not in _IN_THE_MESSAGE
        )
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """Lines for machines: a JSON object each. vLLM's processes use it, too."""

    def format(self, record: logging.LogRecord) -> str:
        """One record's line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        # vLLM says which of its processes logs.
        if (process := getattr(record, "vllm_process_name", "MainProcess")) != "MainProcess":
            line["process"] = process
        line |= getattr(record, "fields", {})
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            line["exception"] = record.exc_text
        return json.dumps(line, ensure_ascii=False, default=str)


class StderrHandler(logging.Handler):
    """Writes lines to standard error, past all buffers; those that cannot be written are dropped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record's line. Raises nothing."""
        try:
            data = f"{self.format(record)}\n".encode(errors="backslashreplace")
            while data:
                data = data[os.write(_STDERR, data) :]
        except OSError:
            LOG_LINES_DROPPED.inc()


@contextmanager
def logging_to_stderr(config: TelemetryConfig) -> Iterator[None]:
    """Sends what Octet logs, and other libraries' warnings, to standard error while the context lasts.

    At its end all lines have been written, unless that takes longer than FLUSH_SECONDS.
    """
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    lines: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUED_LINES)
    writer = threading.Thread(target=_write, args=(lines, handler), name="log", daemon=True)
    writer.start()
    entrance = _Entrance(lines)
    entrance.addFilter(CallFilter())
    octet, root = logging.getLogger("octet"), logging.getLogger()
    octet.handlers = root.handlers = [entrance]
    octet.setLevel(config.log_level.upper())
    octet.propagate = False
    logging.captureWarnings(True)
    # Where a library's own handler cannot write, it would try to write a traceback to the same full disk.
    logging.raiseExceptions = False
    try:
        yield
    finally:
        octet.handlers = root.handlers = []
        with suppress(queue.Full):
            lines.put(None, timeout=FLUSH_SECONDS)
            writer.join(FLUSH_SECONDS)


def _write(lines: "queue.Queue[logging.LogRecord | None]", handler: logging.Handler) -> None:
    while (record := lines.get()) is not None:
        handler.handle(record)


class _Entrance(logging.handlers.QueueHandler):
    """Where loggers leave their records. Never waits."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Does what needs the logger's own time: arguments and tracebacks may change later."""
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hands a record over, or drops it."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            LOG_LINES_DROPPED.inc()


def _text(value: Any) -> str:
    """A value as it can stand behind name= and be told from what follows."""
    text = str(value)
    return (
        json.dumps(text, ensure_ascii=False)
        if not text or any(c.isspace() or c == '"' for c in text)
        else text
    )
