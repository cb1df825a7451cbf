"""How a failed start becomes one line, with real processes and vLLM's real log lines."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from octet.engine.vllm.launch import startup
from octet.engine.vllm.launch.args import EngineSettings, one_line
from octet.engine.vllm.launch.output import SILENT, EngineOutput, silent_end
from octet.engine.vllm.launch.startup import Launch

WORKER_LOG = """\
(VllmWorker-0 pid=1) INFO 11-23 13:07:30 [worker_base.py:317] Injected something
(VllmWorker-0 pid=1) ERROR 11-23 13:07:30 [multiproc_executor.py:953] WorkerProc failed to start.
(VllmWorker-0 pid=1) ERROR 11-23 13:07:30 [multiproc_executor.py:953] Traceback (most recent call last):
(VllmWorker-0 pid=1) ERROR 11-23 13:07:30 [multiproc_executor.py:953]   File "x.py", line 1, in f
(VllmWorker-0 pid=1) ERROR 11-23 13:07:30 [multiproc_executor.py:953] ValueError: Too little memory.
(EngineCore pid=2) ERROR 11-23 13:07:32 [core.py:1510] Exception: WorkerProc initialization failed due to an \
exception in a background process. See stack trace for root cause.
Process EngineCore:
Traceback (most recent call last):
  File "y.py", line 2, in g
Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace.
"""


@pytest.fixture
def stderr_file(tmp_path: Path) -> "Path":
    return tmp_path / "stderr"


def run_child(text: str, stderr_file: Path, *, release: bool) -> EngineOutput:
    """Lets a child process write `text` to its standard output, while standard error is a file."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(stderr_file, "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        output = EngineOutput()
        with output:
            child = subprocess.Popen([sys.executable, "-c", "import sys; print(sys.argv[1], end='')", text])
        child.wait()
        if release:
            output.release()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    return output


def test_the_innermost_error_is_the_cause_and_tracebacks_stay_off_the_screen(stderr_file: Path) -> None:
    output = run_child(WORKER_LOG, stderr_file, release=False)
    assert output.cause() == "Too little memory."
    shown = stderr_file.read_text()
    assert "Injected something" in shown
    assert "Traceback" not in shown
    assert "ERROR" not in shown
    assert "initialization failed" not in shown


BROKEN_PIPE = """\
(EngineCore pid=2) INFO 11-23 13:07:30 [core.py:1] Loading
Process EngineCore:
Traceback (most recent call last):
  File "y.py", line 2, in g
BrokenPipeError: [Errno 32] Broken pipe

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "y.py", line 2, in g
EOFError
Exception: WorkerProc initialization failed due to an exception in a background process.
(EngineCore pid=2) INFO 11-23 13:07:31 [core.py:1] Leaving
"""


def test_a_process_that_is_gone_is_no_cause(stderr_file: Path) -> None:
    """And nothing of its traceback is shown, nor what lies between two of them."""
    assert run_child(BROKEN_PIPE, stderr_file, release=False).cause() is None
    assert [line.rpartition("] ")[2] for line in stderr_file.read_text().splitlines()] == [
        "Loading",
        "Leaving",
    ]


@pytest.mark.parametrize(
    ("raised", "cause"),
    [
        ("KeyError: 'vocab_size'", "KeyError: 'vocab_size'"),
        ("torch.OutOfMemoryError: no room", "no room"),
        ("ValueError: " + "x" * 2000, "x" * 600 + "..."),
        ("RuntimeError: cancelled", None),
        ("Exception: the model is odd", "the model is odd"),
    ],
)
def test_a_cause_is_told_in_few_words(raised: str, cause: str | None, stderr_file: Path) -> None:
    assert (
        run_child(f"Traceback (most recent call last):\n{raised}\n", stderr_file, release=False).cause()
        == cause
    )


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Failed core proc(s): {'EngineCore_DP0': -9}", f"{SILENT} (SIGKILL)"),
        ("See root cause above. Failed core proc(s): {'EngineCore_DP0': -11}", f"{SILENT} (SIGSEGV)"),
        ("Failed core proc(s): {'EngineCore_DP0': 1}", SILENT),
        ("Failed core proc(s): {'EngineCore_DP0': -999}", SILENT),
        ("Engine core initialization failed. Failed core proc(s): {}", SILENT),
    ],
)
def test_who_ended_without_a_word(message: str, said: str) -> None:
    assert silent_end(message) == said


def test_after_a_good_start_nothing_is_lost(stderr_file: Path) -> None:
    output = run_child(WORKER_LOG, stderr_file, release=True)
    output._thread.join(timeout=10)
    assert sorted(stderr_file.read_text().splitlines()) == sorted(WORKER_LOG.splitlines())


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("plain", "plain"),
        ("", "ValueError"),
        ("first\nsecond", "first"),
        (
            "Validation error for field 'a':\n  TypeError: no int\nmore",
            "Validation error for field 'a': TypeError: no int",
        ),
        (
            "1 validation error for ModelConfig\n  Value error, No such thing. [type=value_error, input=1]\n"
            "    For further information visit",
            "No such thing.",
        ),
        (
            "1 validation error for X\nfield\n  Input should be valid [type=int]",
            "field: Input should be valid",
        ),
    ],
)
def test_one_line(message: str, line: str) -> None:
    assert one_line(ValueError(message)) == line


class LostHosts:
    """Other machines, of which one is lost a moment after somebody asks."""

    lost: str | None = None

    def await_loss(self, seconds: float) -> None:
        self.lost = "the machine of --node-rank 1 is gone"


@pytest.mark.parametrize(
    ("cause", "blamed"),
    [
        ("Too little memory.", "Too little memory."),
        ("Connection closed by peer [10.0.0.2]:4242", LostHosts),
        ("[gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 1ms for recv", LostHosts),
        ("DistStoreError: Timed out after 1 seconds waiting for clients", LostHosts),
        (silent_end("Engine core initialization failed. See root cause above."), LostHosts),
    ],
)
def test_another_machine_is_blamed_where_it_may_be_to_blame(
    cause: str, blamed: str | type[LostHosts]
) -> None:
    launch = Launch(EngineSettings(engine=object()))  # type: ignore[arg-type]
    assert launch._blame(cause) == cause, "with one machine there is nobody to blame"
    launch._hosts = LostHosts()  # type: ignore[assignment]
    expected = "the machine of --node-rank 1 is gone" if blamed is LostHosts else blamed
    assert launch._blame(cause) == expected


@pytest.mark.parametrize(
    ("mode", "told"), [("NONE", False), ("DYNAMO_TRACE_ONCE", True), ("VLLM_COMPILE", True)]
)
def test_a_start_that_compiles_says_so(mode: str, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    from vllm.config import CompilationMode

    config: Any = SimpleNamespace(compilation_config=SimpleNamespace(mode=CompilationMode[mode]))
    with caplog.at_level("INFO"):
        startup._announce_compilation(config)
    assert ("compiling the model: some minutes the first time" in caplog.text) is told


def test_want_of_memory_is_named(monkeypatch: pytest.MonkeyPatch, stderr_file: Path) -> None:
    """Where the kernel has killed since the engine was last seen alive, whatever else is said of its end."""
    kills = 3
    monkeypatch.setattr(startup, "memory_kills", lambda: kills)
    launch = Launch(EngineSettings(engine=object()))  # type: ignore[arg-type]
    assert not launch.short_of_memory
    kills = 4
    assert launch.short_of_memory
    output = run_child(WORKER_LOG, stderr_file, release=False)
    assert launch._cause(BrokenPipeError(32, "Broken pipe"), output) == startup.WANT_OF_MEMORY
    launch.seen_alive()
    assert launch._cause(RuntimeError("See root cause above."), output) == "Too little memory."


def test_a_process_that_is_gone_is_named_as_that(stderr_file: Path) -> None:
    launch = Launch(EngineSettings(engine=object()))  # type: ignore[arg-type]
    output = run_child(BROKEN_PIPE, stderr_file, release=False)
    assert launch._cause(BrokenPipeError(32, "Broken pipe"), output) == SILENT
    gone = RuntimeError("Engine core initialization failed. Failed core proc(s): {'EngineCore_DP0': -9}")
    assert launch._cause(gone, output) == f"{SILENT} (SIGKILL)"
