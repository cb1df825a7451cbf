"""What can happen to the processes of an engine and to what they need: who is told what, and what is left."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil  # type: ignore[import-untyped]
import pytest

from octet import demo
from octet.client import Client, OctetRpcError
from octet.client.requests import json_schema
from tests.e2e.conftest import ENGINE_FLAGS, START_SECONDS, wait_until_serving
from tests.pictures import flat_png

long = pytest.mark.skipif("OCTET_LONG_TESTS" not in os.environ, reason="takes long: make check-faults")

MIB = 2**20
_GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files and sockets."""
    return tmp_path_factory.mktemp("o")


class Server:
    """`octet serve`.

    Args:
        folder: an empty one, with a short path, for sockets lie in it.
        flags: what it is started with.
        model: the checkpoint.
        environment: variables beside this process's.
        prepare: is called in the process before it is the server.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        model: Path = demo.PATH,
        environment: dict[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.log, self.temporary = folder / "log", folder
        command = [sys.executable, "-m", "octet", "serve", str(model), "--port", "0", *flags]
        with self.log.open("w") as file:
            self.popen = subprocess.Popen(
                command,
                stderr=file,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"TMPDIR": str(self.temporary)} | (environment or {}),
                preexec_fn=prepare,
            )
        self.family: list[psutil.Process] = []
        self._marks: set[str] = set()

    def target(self) -> str:
        """Its address, once it serves."""
        return wait_until_serving(self.popen, self.log)

    def process(self, title: str) -> psutil.Process:
        """The one of its processes that has this title, as soon as it has."""
        give_up = time.monotonic() + START_SECONDS
        while True:
            self.look()
            for process in self.family:
                with suppress(psutil.Error):
                    if title in " ".join(process.cmdline()):
                        return process
            assert self.popen.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.02)

    def look(self) -> None:
        """Notes its processes and its folders."""
        with suppress(psutil.NoSuchProcess):
            self.family = psutil.Process(self.popen.pid).children(recursive=True)
        self._marks |= {path.name for path in self.temporary.glob("octet-engine-*")}

    def end(self, seconds: float = START_SECONDS) -> tuple[int, str]:
        """Its exit status and the last line of its log, when it ends by itself; nothing may be left then."""
        status = self.popen.wait(seconds)
        assert psutil.wait_procs(self.family, timeout=5)[1] == []
        assert self._marks
        self.leaves_nothing()
        return status, self.log.read_text().splitlines()[-1]

    def leaves_nothing(self) -> None:
        """Nothing but compiled kernels is left in its folder of temporary files, and in shared memory."""
        known = ("torchinductor_", "log", "model")
        assert [path for path in self.temporary.iterdir() if not path.name.startswith(known)] == []
        assert [name for name in os.listdir("/dev/shm") if any(mark in name for mark in self._marks)] == []


@contextmanager
def serving(folder: Path, *flags: str, **options: object) -> Iterator[Server]:
    """A server, killed at the end if it still runs."""
    server = Server(folder, *flags, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.popen.kill()
        server.popen.wait()


def error_in(log: Path) -> str:
    text = log.read_text()
    assert "Traceback" not in text, text
    assert "WorkerProc initialization failed" not in text
    return text


@pytest.mark.parametrize("title", ["VLLM::EngineCore", pytest.param("VLLM::Worker", marks=long)])
def test_a_process_that_is_killed_while_it_loads(title: str, short_path: Path) -> None:
    with serving(short_path, *ENGINE_FLAGS) as server:
        server.process(title).kill()
        status, line = server.end()
    assert status == 1
    killed = "a process of the engine was killed, or ended without a word"
    assert line.removesuffix(" (SIGKILL)") == f"octet: error: cannot serve {demo.PATH}: {killed}"
    error_in(server.log)


@long
def test_weights_that_do_not_fit_the_config(short_path: Path) -> None:
    """Which the worker finds out, two processes away."""
    from tests.e2e.checkpoints import write_templated_checkpoint

    folder = short_path / "model"
    write_templated_checkpoint(demo.PATH, folder, None)
    config = folder / "config.json"
    text = config.read_text().replace('"intermediate_size": 768', '"intermediate_size": 1024')
    config.unlink()
    config.write_text(text)
    with serving(short_path, *ENGINE_FLAGS, model=folder) as server:
        server.process("VLLM::EngineCore")
        status, line = server.end()
    assert status == 1
    assert line.startswith(f"octet: error: cannot serve {folder}: ")
    error_in(server.log)


@long
def test_a_worker_that_stands_still_for_too_long(short_path: Path) -> None:
    """For longer than vLLM waits for a step: the engine is dead, and what stands still is killed."""
    # A first step may take seconds.
    environment = {"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "30"}
    with serving(short_path, *ENGINE_FLAGS, environment=environment) as server:
        with Client(server.target()) as client:
            stream = client.stream("Tell me a story.", ignore_eos=True, max_tokens=1900)
            assert next(iter(stream))
            server.process("VLLM::Worker").send_signal(signal.SIGSTOP)
            with pytest.raises(OctetRpcError) as raised:
                stream.answer()
            assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DEAD")
        assert server.end() == (1, "octet: error: the engine has died")


@long
def test_a_disk_that_is_full_while_it_serves(short_path: Path) -> None:
    """Nothing that a request needs is written; what the log loses is counted."""
    with serving(short_path, *ENGINE_FLAGS) as server, Client(server.target()) as client:
        server.look()
        size = server.log.stat().st_size
        for process in (psutil.Process(server.popen.pid), *server.family):
            process.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        answer = client.chat("What is the capital of France?", timeout=60)
        assert "Paris" in answer.text
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        form = json_schema(schema)
        assert client.chat("Hello!", output_format=form, max_tokens=16, timeout=60).text.startswith("{")
        assert client.chat("What is it?", images=[flat_png(96, 96)], max_tokens=4, timeout=60).text
        assert server.log.stat().st_size == size
        server.popen.terminate()
        assert server.popen.wait(60) == 0


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A control group for memory below this process's own."""
    own = re.search(r"^\d+:memory:(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    parent = _GROUPS / "memory" / own[1].lstrip("/") if own else _GROUPS
    name = "memory.limit_in_bytes" if own else "memory.max"
    group = parent / f"octet-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group for memory can be made: {error}")
    try:
        yield group
    finally:
        give_up = time.monotonic() + 10
        while (group / "cgroup.procs").read_text() and time.monotonic() < give_up:
            time.sleep(0.02)
        group.rmdir()


@long
@pytest.mark.parametrize("named", [False, True])
def test_a_container_with_little_memory(named: bool, short_path: Path) -> None:
    """What is chosen fits into it; what is asked for beyond it ends in a line that says why."""
    with memory_group(2500 * MIB) as group:

        def enter() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

        size = ("--kv-cache-memory-bytes", "4G") if named else ()
        with serving(short_path, "--enforce-eager", *size, prepare=enter) as server:
            if named:
                server.look()
                status, line = server.popen.wait(START_SECONDS), server.log.read_text().splitlines()[-1]
                assert (status, "kernel killed a process for want of memory" in line) == (1, True), line
                error_in(server.log)
                return
            with Client(server.target()) as client:
                assert "Paris" in client.chat("What is the capital of France?").text
