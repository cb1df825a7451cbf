"""How far one event loop goes: the CPU time that the serving process takes for a streamed token.

    python -m bench.event_loop                  # a scripted engine: what gRPC, Octet's rpc and translate cost
    python -m bench.event_loop --engine vllm    # the demo checkpoint: with vLLM's output processing as well

The engine's core has a process of its own and is not counted. A loop is full when a second's tokens take a
second, however fast the machine's clients are: 1e6 / (microseconds a token) is what it can stream.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass

import grpc
import psutil  # type: ignore[import-untyped]

from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Event,
    FinishReason,
    GenerationRequest,
    PromptAccepted,
    TextDelta,
    Usage,
)
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc, content_pb2

MAX_TOKENS = 128


@dataclass
class Result:
    """One run.

    Attributes:
        streams: answers streamed at the same time.
        tokens_per_second: over all of them.
        tokens_per_chunk: how many came together; more than 1 where the loop was behind.
        cpu_share: CPU seconds of the serving process a second, all its threads; a loop ends near 1.
        microseconds_per_token: CPU time of the serving process.
    """

    streams: int
    tokens_per_second: float
    tokens_per_chunk: float
    cpu_share: float
    microseconds_per_token: float


async def tokens(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """A scripted answer: as many tokens as asked for, one at a time, in turns with other answers."""
    wanted = request.sampling.max_tokens or 2
    yield PromptAccepted(prompt_tokens=8, image_tokens=0)
    for count in range(1, wanted + 1):
        await asyncio.sleep(0)
        yield Deltas((TextDelta(0, "word "),), Usage(8, count, cached_tokens=0, image_tokens=0))
    yield Deltas((CandidateFinished(0, FinishReason.LENGTH),), Usage(8, wanted, 0, 0))


def serve_scripted() -> None:
    """Serves `tokens` until a signal."""
    from octet.cli.serve import serve_engine
    from octet.config import ServerConfig
    from octet.engine.protocol import Engine
    from tests.integration.fake_engine import FakeEngine

    async def start() -> Engine:
        return FakeEngine(tokens, takes_images=False)

    serve_engine(ServerConfig(port=0, grace_seconds=0), start)


def request() -> chat_service_pb2.ChatRequest:
    """Asks for MAX_TOKENS tokens of text, whatever it says."""
    turn = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text="Say something.")])
    made = chat_service_pb2.ChatRequest(messages=[turn])
    made.sampling.max_tokens = MAX_TOKENS
    made.sampling.min_tokens = MAX_TOKENS
    made.sampling.temperature = 1.0
    return made


async def read(target: str) -> tuple[int, int]:
    """Streams one answer over a connection of its own; returns its chunks and tokens."""
    chunks = completion = 0
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        async for chunk in chat_service_pb2_grpc.ChatServiceStub(channel).StreamChat(request()):
            chunks += 1
            completion = max(completion, chunk.usage.completion_tokens)
    return chunks, completion


async def measure(target: str, server: psutil.Process, streams: int, seconds: float) -> Result:
    """Keeps so many answers streaming for about so long."""
    await asyncio.gather(*(read(target) for _ in range(streams)))
    chunks = completion = 0
    cpu_before, started = sum(server.cpu_times()[:2]), time.monotonic()

    async def one_after_the_other() -> None:
        nonlocal chunks, completion
        while time.monotonic() - started < seconds:
            more_chunks, more_tokens = await read(target)
            chunks += more_chunks
            completion += more_tokens

    await asyncio.gather(*(one_after_the_other() for _ in range(streams)))
    took, cpu = time.monotonic() - started, sum(server.cpu_times()[:2]) - cpu_before
    return Result(streams, completion / took, completion / chunks, cpu / took, 1e6 * cpu / completion)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("scripted", "vllm"), default="scripted")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--serve-scripted", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_scripted:
        serve_scripted()
        return
    command = {
        "scripted": [sys.executable, "-m", "bench.event_loop", "--serve-scripted"],
        "vllm": [sys.executable, "-m", "octet", "serve", "--port", "0", "--max-num-seqs", "256"],
    }[arguments.engine]
    # The server must not outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    log = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert log.stderr is not None
        target = next(match[1] for line in log.stderr if (match := re.search(r"serving \S+ on (\S+)", line)))
        # Where the log goes on, nobody waits for it to be read.
        drain = subprocess.Popen(["cat"], stdin=log.stderr, stdout=subprocess.DEVNULL)
        if arguments.engine == "scripted" and (os.cpu_count() or 1) > 1:
            psutil.Process(log.pid).cpu_affinity([0])
            psutil.Process().cpu_affinity(list(range(1, os.cpu_count() or 1)))
        for streams in arguments.streams:
            result = asyncio.run(measure(target, psutil.Process(log.pid), streams, arguments.seconds))
            print(json.dumps({name: round(value, 3) for name, value in asdict(result).items()}), flush=True)
    finally:
        log.terminate()
        log.wait()
    drain.wait()


if __name__ == "__main__":
    main()
