"""Servers that benchmarks start for themselves."""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

# A line of the log may hold a long traceback.
_LINE_BYTES = 2**24


@dataclass(slots=True)
class Server:
    """A server.

    Attributes:
        target: its address.
        process: its process.
        tracebacks: how many its log has held since it serves.
    """

    target: str
    process: psutil.Process
    tracebacks: int = 0


@contextlib.asynccontextmanager
async def serving(*arguments: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    """A server for as long as the context lasts, started by `python -m` with these arguments.

    Its log goes to standard error until it serves.

    Args:
        arguments: the module and what it takes.
        environment: of the process; None for this one's.

    Raises:
        RuntimeError: it does not start; its log says why.
    """
    command = [sys.executable, "-m", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, env=environment, limit=_LINE_BYTES
    )
    assert process.stderr is not None
    log = process.stderr
    address = None
    while address is None:
        line = (await log.readline()).decode()
        if not line:
            raise RuntimeError("the server did not start")
        sys.stderr.write(line)
        address = re.search(r"octet: serving \S+ on (\S+)", line)
    server = Server(address[1], psutil.Process(process.pid))

    async def follow() -> None:
        async for raw in log:
            server.tracebacks += b"Traceback" in raw

    following = asyncio.create_task(follow())
    try:
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
        await following


def octet_serve(flags: list[str]) -> list[str]:
    """The arguments of `octet serve` with these flags, at a free port."""
    return ["octet", "serve", "--port", "0", *flags]
