"""What an engine's processes write while it starts, and the cause of a failed start in it."""

import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from octet.engine.vllm.launch import logs
from octet.telemetry.metrics import LOG_LINES_DROPPED

_PROCESS = re.compile(rb"^\((?:EngineCore|Worker|VllmWorker|DP\w*|ApiServer)[^)]*\) ")
_ERROR = re.compile(r"(?:^|ERROR .*?\] )((?:\w+\.)*\w*(?:Error|Exception|Interrupt)): (.+)")
# How vLLM's log and Python's warnings begin a line that is no part of a traceback.
_LOGGED = re.compile(rb"(?:DEBUG|INFO|WARNING) \d\d-\d\d |\{|\S+:\d+: \w*Warning: ")

# Messages of outer exceptions, which only say that there is an inner one; kinds that say somebody is gone.
_HOLLOW = ("See stack trace", "See root cause", "initialization failed", "cancelled")
_HOLLOW_KINDS = ("BrokenPipeError", "ConnectionResetError", "EOFError", "CancelledError")

# Kinds of errors whose messages say nothing without them, such as "'vocab_size'".
_TERSE = ("KeyError", "IndexError", "AttributeError", "AssertionError", "TypeError", "ZeroDivisionError")

_EXITS = re.compile(r"Failed core proc\(s\): \{[^}]*?(-\d+)")

SILENT = "a process of the engine was killed, or ended without a word"

_MOST_CHARACTERS = 600


def is_hollow(kind: str, message: str) -> bool:
    """Whether an error, of a class of that name, only says that something else went wrong."""
    return kind.rpartition(".")[2] in _HOLLOW_KINDS or any(hollow in message for hollow in _HOLLOW)


def silent_end(message: str) -> str:
    """What to say of an engine that left nothing but a hollow message, which may hold its exit status."""
    if (match := _EXITS.search(message)) is None:
        return SILENT
    try:
        return f"{SILENT} ({signal.Signals(-int(match[1])).name})"
    except ValueError:
        return SILENT


class EngineOutput:
    """Takes the output of the processes that are started inside it, for as long as they live.

    Everything goes on to standard error; error lines only after `release`.
    """

    def __init__(self) -> None:
        self._held: deque[bytes] | None = deque(maxlen=2000)
        self._lock = threading.Lock()
        self._saved: dict[int, int] = {}
        read_fd, self._write_fd = os.pipe()
        self._out = os.dup(2)
        self._thread = threading.Thread(target=self._copy, args=(read_fd,), name="engine-output", daemon=True)

    def __enter__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._thread.start()
        for fd in (1, 2):
            self._saved[fd] = os.dup(fd)
            os.dup2(self._write_fd, fd)
        os.close(self._write_fd)

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, original in self._saved.items():
            os.dup2(original, fd)
            os.close(original)

    def _copy(self, read_fd: int) -> None:
        in_traceback = False
        with open(read_fd, "rb", buffering=0) as pipe:
            for line in _lines(pipe):
                in_traceback = _is_trouble(line) or (in_traceback and not _is_logged(line))
                with self._lock:
                    if self._held is not None and (in_traceback or _ERROR.search(_text(line))):
                        self._held.append(line)
                        continue
                self._write(line)

    def release(self) -> None:
        """The start has succeeded: lets error lines through from now on, and those that were held back."""
        with self._lock:
            held, self._held = self._held, None
        for line in held or ():
            self._write(line)

    def _write(self, line: bytes) -> None:
        """Writes a line, or drops it: the engine must not stop because a disk is full."""
        try:
            os.write(self._out, logs.in_format(line))
        except OSError:
            LOG_LINES_DROPPED.inc()

    def cause(self) -> str | None:
        """The message of the innermost error that was held back and says something; None where none does."""
        # The processes are gone by now: the pipe's other end closes, and the thread ends by itself.
        self._thread.join(timeout=5)
        with self._lock:
            held = [_text(line) for line in self._held or ()]
        lines = [line for text in held for line in logs.error_lines(text) or [text]]
        found = [match for line in lines if (match := _ERROR.search(line))]
        return next((_telling(*match.groups()) for match in found if not is_hollow(*match.groups())), None)


def _telling(kind: str, message: str) -> str:
    """An error's message in one line of bounded length."""
    said = message.strip()
    if kind.rpartition(".")[2] in _TERSE:
        said = f"{kind}: {said}"
    return said if len(said) <= _MOST_CHARACTERS else f"{said[:_MOST_CHARACTERS]}..."


def _lines(pipe: Any) -> Iterator[bytes]:
    rest = b""
    while chunk := pipe.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _text(line: bytes) -> str:
    return _PROCESS.sub(b"", line).decode(errors="replace").rstrip("\n")


def _is_trouble(line: bytes) -> bool:
    if logs.error_lines(_text(line)) is not None:
        return True
    text = _PROCESS.sub(b"", line)
    return text.startswith((b"Traceback (most recent call last)", b"ERROR ", b"Process EngineCore"))


def _is_logged(line: bytes) -> bool:
    """Whether a line begins something new, behind a traceback and what may follow it."""
    return _LOGGED.match(_PROCESS.sub(b"", line)) is not None
