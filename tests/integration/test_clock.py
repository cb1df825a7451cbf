"""A wall clock that jumps: nothing in the server depends on it."""

import os
import re
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from octet.client import Client, OctetRpcError
from tests.integration.processes import server_process

COMPILER = os.environ.get("CC", "cc")
DAY = 24 * 3600


class Clock:
    """The wall clock of the processes that are started from now on."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shim = folder / "clock_shim.so"
        source = Path(__file__).with_name("clock_shim.c")
        subprocess.run([COMPILER, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
        self._offset = folder / "offset"
        self.jump(0)
        monkeypatch.setenv("CLOCK_OFFSET", str(self._offset))
        monkeypatch.setenv("LD_PRELOAD", str(shim))

    def jump(self, seconds: int) -> None:
        """Sets by how much it is wrong."""
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="the shim needs a C compiler")
def test_a_wall_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tmp_path, monkeypatch)
    with server_process("endless") as server, Client(server.target) as client:
        stream = client.stream("hello", request_id="across", timeout=60)
        assert next(iter(stream)) == "first "
        for offset in (DAY, -DAY, 400 * DAY):
            clock.jump(offset)
            # The deadlines of calls that run, that come and that have none of it to spare are all kept.
            asked = time.monotonic()
            with pytest.raises(OctetRpcError) as raised:
                client.chat("hello", timeout=1)
            assert raised.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
            assert time.monotonic() - asked >= 0.9
            assert client.list_models()
        server.signal(signal.SIGUSR2)
        assert stream.answer().text == "first last"
        assert client.chat("hello", timeout=30).text == "first last"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    # The log tells the time that it was told: the clock did jump.
    years = {line[:4] for line in server.log if re.match(r"\d{4}-", line)}
    assert len(years) == 2
