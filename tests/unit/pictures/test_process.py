"""Decoding in another process: the same pictures, and what can go wrong with such a process."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from octet.errors import UnavailableError
from octet.pictures.decode import DecodeError, decode_here
from octet.pictures.header import read_header
from octet.pictures.plan import Plan, make_plan
from octet.pictures.process import DecoderProcess
from tests.pictures import flat, flat_png, slow_jpeg
from tests.unit.pictures.pngs import Png, kinds

SMALL = flat_png(3, 2)


def plan(file: bytes) -> Plan:
    return make_plan(read_header(file), None)


@pytest.fixture
def process() -> Iterator[DecoderProcess]:
    one = DecoderProcess()
    yield one
    one.close()


def decode(process: DecoderProcess, file: bytes, seconds: float = 60) -> object:
    return process.decode(file, plan(file), seconds=seconds)


def test_it_gives_what_decoding_here_gives(process: DecoderProcess) -> None:
    files = [Png(kind).file() for kind in kinds()]
    files += [flat(name, 700) for name in ("PNG", "JPEG", "WEBP", "GIF")]
    for file in files:
        assert process.decode(file, plan(file), seconds=60) == decode_here(file, plan(file))


def test_a_refusal_is_not_its_end(process: DecoderProcess) -> None:
    damaged = flat("JPEG", 64)[:300] + bytes(10)
    with pytest.raises(DecodeError, match="damaged or cut short"):
        process.decode(damaged, plan(flat("JPEG", 64)), seconds=60)
    assert process.alive
    decode(process, SMALL)


def test_what_takes_too_long_is_refused(process: DecoderProcess) -> None:
    decode(process, SMALL)
    with pytest.raises(DecodeError, match=r"takes more than 0\.2 seconds of processor time"):
        decode(process, slow_jpeg(), seconds=0.2)
    assert not process.alive


def test_what_takes_more_memory_than_announced_is_refused(process: DecoderProcess) -> None:
    decode(process, SMALL)
    large = flat("PNG", 8000)
    lie = replace(plan(large), header=replace(read_header(large), full=0))
    with pytest.raises(DecodeError, match="more memory"):
        process.decode(large, lie, seconds=60)
    assert not process.alive


def while_it_decodes(process: DecoderProcess, act: object) -> BaseException:
    """What decoding raises when something happens to the process meanwhile."""
    decode(process, SMALL)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            decode(process, slow_jpeg())
        except (DecodeError, UnavailableError) as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    before = psutil.Process(process.pid).cpu_times().user
    thread.start()
    while psutil.Process(process.pid).cpu_times().user < before + 0.05:
        pass
    act()  # type: ignore[operator]
    thread.join(30)
    assert not thread.is_alive()
    return raised[0]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_the_files_fault(process: DecoderProcess, number: signal.Signals) -> None:
    error = while_it_decodes(process, lambda: os.kill(process.pid, number))
    assert isinstance(error, DecodeError)
    assert "ends its decoder" in str(error)


def test_it_can_be_stopped(process: DecoderProcess) -> None:
    error = while_it_decodes(process, process.kill)
    assert isinstance(error, UnavailableError)
    process.close()
    assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_for_its_server_are_not_its_own(process: DecoderProcess, number: signal.Signals) -> None:
    decode(process, SMALL)
    os.kill(process.pid, number)
    decode(process, SMALL)


def test_a_process_that_does_not_start_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    process = DecoderProcess()
    with pytest.raises(UnavailableError):
        decode(process, SMALL)
    process.close()


SERVER = """
import sys, threading
from octet.pictures.header import read_header
from octet.pictures.plan import make_plan
from octet.pictures.process import DecoderProcess
from tests.pictures import flat_png, slow_jpeg

process = DecoderProcess()
small = flat_png(3, 2)
process.decode(small, make_plan(read_header(small), None), seconds=60)
print(process.pid, flush=True)
if sys.argv[1] == "decoding":
    slow = slow_jpeg()
    process.decode(slow, make_plan(read_header(slow), None), seconds=600)
threading.Event().wait()
"""


@pytest.mark.parametrize("state", ["idle", "decoding"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_server(state: str, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SERVER, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        decoder = psutil.Process(int(server.stdout.readline()))
        if state == "decoding":
            before = decoder.cpu_times().user
            while decoder.cpu_times().user < before + 0.05:
                pass
        server.send_signal(number)
        server.wait(30)
    psutil.wait_procs([decoder], timeout=10)
    assert not decoder.is_running()


def test_it_loads_no_engine_and_no_server() -> None:
    code = "import sys, octet.pictures.worker; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "vllm", "grpc", "google.protobuf", "numpy", "asyncio"} & set(modules)
