"""What one caller's requests do to another's stream, on the event loop that serves them both.

    python -m bench.stalls                  # every case
    python -m bench.stalls parts garbage    # some

A scripted engine gives one client a token every 5 ms; another client sends what the case says. For each case
it prints how the attack ended, the time between the first client's chunks (median, 99th percentile, longest)
without and during the attack, how much memory the server took, and how many lines it logged. No model is
computed: what is seen is gRPC's, Octet's rpc's and translate's. Of two cores the server has one.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]

from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Event,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    PromptAccepted,
    TextDelta,
    Tokens,
    Usage,
)
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc, content_pb2, model_service_pb2, tool_pb2

CHAT = "/octet.v1.ChatService/Chat"
TOKENIZE = "/octet.v1.ModelService/Tokenize"
CONTEXT = 131072
TOKEN_SECONDS = 0.005
TOKENIZE_SECONDS = 0.5
SECONDS = 4.0


async def steady(request: GenerationRequest) -> AsyncGenerator[Event, None]:
    """A token every `TOKEN_SECONDS`, as many as asked for, or two."""
    wanted = request.sampling.max_tokens or 2
    yield PromptAccepted(prompt_tokens=8, image_tokens=0)
    for count in range(1, wanted + 1):
        await asyncio.sleep(TOKEN_SECONDS)
        yield Deltas((TextDelta(0, "word "),), Usage(8, count, cached_tokens=0, image_tokens=0))
    yield Deltas((CandidateFinished(0, FinishReason.LENGTH),), Usage(8, wanted, 0, 0))


def serve() -> None:
    """Serves `steady` until a signal; a text is split in `TOKENIZE_SECONDS`, one after the other."""
    from octet.cli.serve import serve_engine
    from octet.config import ServerConfig
    from octet.engine.protocol import Engine
    from tests.integration.fake_engine import FakeEngine

    thread = ThreadPoolExecutor(1)

    class Scripted(FakeEngine):
        @property
        def model(self) -> ModelInfo:
            return replace(super().model, context_window=CONTEXT)

        async def tokenize(
            self, text: str, *, add_special_tokens: bool, parse_special_tokens: bool | None
        ) -> Tokens:
            await asyncio.get_running_loop().run_in_executor(thread, time.sleep, TOKENIZE_SECONDS)
            return Tokens((1,), (text[:1],))

    async def start() -> Engine:
        return Scripted(steady)

    serve_engine(ServerConfig(port=0, grace_seconds=0, api_keys="one one\ntwo two\n"), start)


def held(number: int, data: bytes) -> bytes:
    """A field of a serialized message."""
    length, size = b"", len(data)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def turn(parts: bytes, role: int = content_pb2.ROLE_USER) -> bytes:
    """A message of a serialized request."""
    return held(2, bytes([8, role]) + parts)


def parts() -> list[bytes]:
    """3 million parts of a letter."""
    return [turn(held(2, held(1, b"a")) * 3_000_000)]


def call_and_result(result: bytes) -> bytes:
    """A conversation with one tool call."""
    call = tool_pb2.ToolCall(id="c", name="f", arguments_json="{}").SerializeToString()
    asked = turn(held(2, held(1, b"a"))) + turn(held(2, held(3, call)), content_pb2.ROLE_ASSISTANT)
    return asked + turn(held(2, held(4, held(1, b"c") + result)), content_pb2.ROLE_TOOL)


def numbers() -> list[bytes]:
    """3 million numbers in a tool's result."""
    number = held(1, b"\x11" + b"\0" * 8)
    return [call_and_result(held(3, held(1, held(1, b"x") + held(2, held(6, number * 3_000_000)))))]


def largest() -> list[bytes]:
    """As many numbers in a tool's result as the context window permits."""
    number = held(1, b"\x11" + b"\0" * 8)
    return [
        call_and_result(held(3, held(1, held(1, b"x") + held(2, held(6, number * (CONTEXT // 2 - 10))))))
    ] * 4


def calls() -> list[bytes]:
    """60 tool calls with a megabyte of arguments each."""
    made = b""
    for i in range(60):
        arguments = '{"a": "' + "x" * 1_000_000 + '"}'
        call = tool_pb2.ToolCall(id=str(i), name="f", arguments_json=arguments)
        made += held(2, held(3, call.SerializeToString()))
    return [turn(held(2, held(1, b"a"))) + turn(made, content_pb2.ROLE_ASSISTANT)]


def text() -> list[bytes]:
    """Six requests at a time with 63 MB of text each."""
    return [turn(held(2, held(1, b"a" * 63_000_000)))] * 6


def garbage() -> list[bytes]:
    """Bytes that are no message, 16 calls at a time."""
    return [b"\xff\xff\xff"] * 16


def tokenize() -> list[bytes]:
    """64 texts to be split."""
    return [model_service_pb2.TokenizeRequest(text="a").SerializeToString()] * 64


# What is sent, all at a time; and whether it is sent again for as long as the case lasts.
CASES = {
    "parts": (parts, False),
    "numbers": (numbers, False),
    "largest": (largest, True),
    "calls": (calls, False),
    "text": (text, False),
    "garbage": (garbage, True),
    "tokenize": (tokenize, False),
}


def metadata(key: str) -> tuple[tuple[str, str], ...]:
    """Says who calls."""
    return (("authorization", f"Bearer {key}"),)


async def attack(target: str, case: str) -> None:
    """Sends a case's requests, and prints how many ended in which way."""
    make, again = CASES[case]
    requests = make()
    outcomes: Counter[str] = Counter()
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()

    async def one(data: bytes) -> None:
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            method: Any = channel.unary_unary(TOKENIZE if case == "tokenize" else CHAT)
            while True:
                try:
                    await method(data, metadata=metadata("one"))
                    outcomes["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    outcomes[error.code().name] += 1
                if not again or time.monotonic() - started > SECONDS:
                    return

    await asyncio.gather(*map(one, requests))
    print(json.dumps(outcomes))


def ask(tokens: int) -> chat_service_pb2.ChatRequest:
    """A request for so many tokens."""
    said = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text="Say something.")])
    request = chat_service_pb2.ChatRequest(messages=[said])
    request.sampling.max_tokens = tokens
    return request


async def watch(target: str, until: asyncio.Event) -> list[float]:
    """Seconds between the chunks of streams, one after the other, until told to stop."""
    gaps: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        while not until.is_set():
            last = None
            async for _ in chat_service_pb2_grpc.ChatServiceStub(channel).StreamChat(
                ask(10_000), metadata=metadata("two")
            ):
                now = time.monotonic()
                if last is not None:
                    gaps.append(now - last)
                last = now
                if until.is_set():
                    break
    return gaps


async def split(target: str) -> float:
    """How long a text of another caller's takes to be split."""
    async with grpc.aio.insecure_channel(target) as channel:
        started = time.monotonic()
        data = model_service_pb2.TokenizeRequest(text="b").SerializeToString()
        method: Any = channel.unary_unary(TOKENIZE)
        await method(data, metadata=metadata("two"))
        return time.monotonic() - started


def spread(gaps: Sequence[float]) -> dict[str, float]:
    """Milliseconds: median, 99th percentile and longest."""
    ordered = sorted(gaps)
    return {
        "p50_ms": round(1e3 * statistics.median(ordered), 1),
        "p99_ms": round(1e3 * ordered[int(0.99 * len(ordered))], 1),
        "longest_ms": round(1e3 * ordered[-1], 1),
    }


async def measure(case: str, target: str, server: psutil.Process, lines: list[str]) -> None:
    """Runs a case and prints what it did."""
    attacker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.stalls", "--attack", target, case),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert attacker.stdout is not None
    await attacker.stdout.readline()
    quiet_end, end, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
    quiet = asyncio.ensure_future(watch(target, quiet_end))
    await asyncio.sleep(2)
    quiet_end.set()
    before = spread(await quiet)
    memory = most = server.memory_info().rss
    logged = len(lines)
    watching = asyncio.ensure_future(watch(target, end))

    async def weigh() -> None:
        nonlocal most
        while not stopped.is_set():
            most = max(most, server.memory_info().rss)
            await asyncio.sleep(0.02)

    weighing = asyncio.ensure_future(weigh())
    await asyncio.sleep(0.5)
    started = time.monotonic()
    attacking = asyncio.ensure_future(attacker.communicate(b"\n"))
    splitting = 0.0
    if case == "tokenize":
        await asyncio.sleep(0.3)
        splitting = await split(target)
    out, _ = await attacking
    seconds = time.monotonic() - started
    await asyncio.sleep(0.5)
    end.set()
    during = spread(await watching)
    stopped.set()
    await weighing
    result = {
        "case": case,
        "ended": json.loads(out),
        "seconds": round(seconds, 2),
        "before": before,
        "during": during,
        "server_mib_more": (most - memory) >> 20,
        "lines_logged": len(lines) - logged,
    }
    if splitting:
        result["other_callers_tokenize_seconds"] = round(splitting, 2)
    print(json.dumps(result), flush=True)


def scan() -> None:
    """Prints how long the scanner takes for texts that used to be read again with each character."""
    from octet.translate.tools import ToolCallScanner

    for head, repeated, count in (
        ("get_weather", " ", 32_000),
        ("get_weather", " ", 128_000),
        ("f(", "a", 32_000),
    ):
        scanner = ToolCallScanner(("get_weather", "f"))
        started = time.monotonic()
        for character in head + repeated * count:
            scanner.feed(character)
        scanner.finish()
        seconds = round(time.monotonic() - started, 3)
        print(json.dumps({"scanned": f"{head!r} and {count} {repeated!r}", "seconds": seconds}), flush=True)


def pin(processes: Iterable[tuple[psutil.Process, list[int]]]) -> None:
    """Keeps processes to cores."""
    for process, cores in processes:
        process.cpu_affinity(cores)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)} and scan; all by default")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    if arguments.attack:
        asyncio.run(attack(arguments.attack, *arguments.cases))
        return
    cases = arguments.cases or [*CASES, "scan"]
    if "scan" in cases:
        scan()
    # The server must not outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for case in (case for case in cases if case != "scan"):
        command = [sys.executable, "-m", "bench.stalls", "--serve"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        lines: list[str] = []
        try:
            assert server.stderr is not None
            target = next(
                match[1] for line in server.stderr if (match := re.search(r"serving \S+ on (\S+)", line))
            )
            threading.Thread(target=lines.extend, args=(server.stderr,), daemon=True).start()
            cores = list(range(os.cpu_count() or 1))
            if len(cores) > 1:
                pin(((psutil.Process(server.pid), cores[:1]), (psutil.Process(), cores[1:])))
            asyncio.run(measure(case, target, psutil.Process(server.pid), lines))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
