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
    server = Server("", psutil.Process(process.pid))
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    following = asyncio.create_task(_follow(process.stderr, server, address))
    try:
        server.target = await address
        yield server
    finally:
        # Also while it is starting, and when it has ended by itself.
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await process.wait()
        await following


async def _follow(log: asyncio.StreamReader, server: Server, address: "asyncio.Future[str]") -> None:
    """Reads a log to its end: first for the address, then for tracebacks."""
    async for raw in log:
        line = raw.decode(errors="replace")
        if address.done():
            server.tracebacks += "Traceback" in line
            continue
        sys.stderr.write(line)
        if (found := re.search(r"octet: serving \S+ on (\S+)", line)) is not None:
            address.set_result(found[1])
    if not address.done():
        address.set_exception(RuntimeError("the server did not start"))


def octet_serve(flags: list[str]) -> list[str]:
    """The arguments of `octet serve` with these flags, at a free port."""
    return ["octet", "serve", "--port", "0", *flags]
