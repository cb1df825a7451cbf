"""The four that are compared, each with the same engine, model and flags."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil  # type: ignore[import-untyped]

from bench.peers import bursts
from bench.peers.bursts import Job
from bench.peers.lines import packed, unpacked
from bench.serving import octet_serve, serving
from octet.bench.serving.octet_grpc import OctetTarget
from octet.bench.serving.openai_http import OpenAiTarget
from octet.bench.serving.play import Load, Prepared
from octet.bench.serving.run import ready
from octet.bench.serving.target import Failure, Form, Target
from octet.bench.serving.vllm_grpc import VllmTarget

TIMEOUT = 300.0
_START_SECONDS = 300.0
_ASKED_EVERY_S = 0.5
_END_SECONDS = 60.0
_LINE_BYTES = 1 << 28


class Peer(Protocol):
    """What is measured.

    Attributes:
        process: the one that is asked.
        shows: whether what comes is text, and not token ids.
    """

    process: psutil.Process
    shows: bool

    async def prepare(self, job: Job) -> None:
        """Makes a job's requests."""
        ...

    async def play(self) -> list[Load]:
        """Puts on what was prepared."""
        ...


class Served:
    """A server, asked from this process."""

    def __init__(self, process: psutil.Process, target: Target, form: Form) -> None:
        self.process = process
        self.shows = not target.takes_tokens
        self._target = target
        self._form = form
        self._prepared: Sequence[Sequence[Prepared]] = ()

    async def prepare(self, job: Job) -> None:
        """Makes a job's requests."""
        self._prepared = bursts.prepare(self._target, self._form, job)

    async def play(self) -> list[Load]:
        """Puts on what was prepared."""
        return await bursts.play(self._target, self._prepared)


class Alone:
    """The engine alone, asked inside its process (`engine_alone`)."""

    shows = False

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = psutil.Process(process.pid)
        self._pipes = process

    async def prepare(self, job: Job) -> None:
        """Makes a job's requests."""
        await self._ask(job)

    async def play(self) -> list[Load]:
        """Puts on what was prepared."""
        loads: list[Load] = await self._ask(None)
        return loads

    async def _ask(self, question: Job | None) -> Any:
        assert self._pipes.stdin is not None
        self._pipes.stdin.write(packed(question))
        await self._pipes.stdin.drain()
        return await self.answer()

    async def answer(self) -> Any:
        """The next answer.

        Raises:
            RuntimeError: the process has ended; its log says why.
        """
        assert self._pipes.stdout is not None
        if not (line := await self._pipes.stdout.readline()):
            raise RuntimeError("the engine alone has ended")
        return unpacked(line)


@contextlib.asynccontextmanager
async def engine_alone(
    flags: Sequence[str], environment: Mapping[str, str], log: Path
) -> AsyncIterator[Peer]:
    """The engine alone, for as long as the context lasts.

    Raises:
        RuntimeError: it does not start; the log says why.
    """
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.peers.engine_alone", *flags),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
            env=environment,
            limit=_LINE_BYTES,
        )
    try:
        alone = Alone(process)
        try:
            await alone.answer()
        except RuntimeError:
            raise RuntimeError(f"the engine alone did not start:\n{_end_of(log)}") from None
        yield alone
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await _ended(process)


@contextlib.asynccontextmanager
async def octet(flags: Sequence[str], environment: Mapping[str, str], log: Path) -> AsyncIterator[Peer]:
    """`octet serve`; its log goes to standard error until it serves."""
    async with (
        serving(*octet_serve(list(flags)), environment=environment) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        target = OctetTarget(server.target, timeout=TIMEOUT)
        stack.push_async_callback(target.close)
        yield Served(server.process, target, await ready(target, Form()))


def vllm_grpc(
    flags: Sequence[str], environment: Mapping[str, str], log: Path
) -> contextlib.AbstractAsyncContextManager[Peer]:
    """vLLM's gRPC server, which takes and gives token ids."""
    port = _free_port()
    arguments = ["vllm.entrypoints.launchers.grpc_server", "--model", *flags]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    return _vllm(arguments, VllmTarget(f"127.0.0.1:{port}", timeout=TIMEOUT), environment, log)


def vllm_openai(
    flags: Sequence[str], environment: Mapping[str, str], log: Path
) -> contextlib.AbstractAsyncContextManager[Peer]:
    """vLLM's OpenAI server."""
    port = _free_port()
    arguments = ["vllm.entrypoints.openai.api_server", "--model", *flags]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    return _vllm(arguments, OpenAiTarget(f"http://127.0.0.1:{port}/v1", timeout=TIMEOUT), environment, log)


@contextlib.asynccontextmanager
async def _vllm(
    arguments: Sequence[str], target: Target, environment: Mapping[str, str], log: Path
) -> AsyncIterator[Peer]:
    """A server of vLLM's.

    Raises:
        RuntimeError: it does not start; the log says why.
    """
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
        )
    try:
        form = await _when_ready(process, target, log)
        yield Served(psutil.Process(process.pid), target, form)
    finally:
        await target.close()
        if process.returncode is None:
            process.terminate()
        await _ended(process)


async def _when_ready(process: asyncio.subprocess.Process, target: Target, log: Path) -> Form:
    """What `ready` learns, as soon as there is somebody to ask: vLLM's servers do not tell when that is."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while process.returncode is None:
                try:
                    return await ready(target, Form())
                except Failure as failure:
                    waiting = failure
                    await asyncio.sleep(_ASKED_EVERY_S)
            raise RuntimeError(f"{target.title} did not start:\n{_end_of(log)}")
    except TimeoutError:
        raise RuntimeError(f"{target.title} does not answer: {waiting}\n{_end_of(log)}") from None


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Waits for the end, and kills what does not come to it."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


PEERS = {
    "engine": ("the engine alone", engine_alone),
    "octet": ("Octet", octet),
    "vllm-grpc": ("vLLM's gRPC server", vllm_grpc),
    "vllm-openai": ("vLLM's OpenAI server", vllm_openai),
}
"""By the name on the command line: what tables call it, and what starts it."""


def environment_of(cores: str) -> dict[str, str]:
    """The environment of all of them: threads on the same cores, logs out of the way."""
    from octet.engine.vllm.launch.threads import BINDING

    return os.environ | {BINDING: cores, "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
