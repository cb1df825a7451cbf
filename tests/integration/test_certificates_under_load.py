"""Certificates that are renewed, and broken, while clients connect and call all the time: no call fails."""

import asyncio
import json
import re
import threading
from pathlib import Path

from octet.client import AsyncClient, Tls
from tests.certificates import NAME, Certificates
from tests.integration.processes import Process, server_process

CALLERS = 4
RENEWALS = 3


class Log:
    """A server's log, which is read all the time."""

    def __init__(self, server: Process) -> None:
        assert server.popen.stderr is not None
        self._lines = server.popen.stderr
        self._changed = threading.Condition()
        self._text = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._lines:
            with self._changed:
                self._text += line
                self._changed.notify_all()

    def until(self, pattern: str, times: int) -> None:
        """Waits until a line has come so many times in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(re.findall(pattern, self._text)) >= times, 30), (
                self._text
            )

    def end(self) -> str:
        """All of it, when its server has ended."""
        self._thread.join(10)
        return self._text


def cut(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


async def test_no_call_fails(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("server", NAME)
    tls = Tls(ca=certificates.ca, server_name=NAME)
    answered = [0] * CALLERS
    ended = asyncio.Event()

    async def connect_and_call(target: str, number: int) -> None:
        while not ended.is_set():
            async with AsyncClient(target, tls=tls) as client:
                assert (await client.chat("hello", timeout=20)).text == "hello "
            answered[number] += 1

    async def all_are_answered() -> None:
        before = answered.copy()
        async with asyncio.timeout(30):
            while any(now < then + 3 for now, then in zip(answered, before, strict=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    files = (f"tls_certificate={json.dumps(certificate)}", f"tls_key={json.dumps(key)}")
    with server_process("echo", *files) as server:
        log = Log(server)
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(connect_and_call(server.target, number))
            await all_are_answered()
            for renewal in range(1, RENEWALS + 1):
                # Cut off, as where a disk is full.
                await asyncio.to_thread(cut, Path(key))
                await asyncio.to_thread(log.until, "TLS certificates stay as they were", renewal)
                await all_are_answered()
                certificates.issue("server", NAME)
                await asyncio.to_thread(log.until, "TLS certificates reloaded", renewal)
                await all_are_answered()
            ended.set()
        server.popen.terminate()
        assert server.popen.wait(20) == 0
        assert "Traceback" not in log.end()
