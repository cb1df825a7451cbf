"""What one caller's pictures cost another caller's stream, and in memory.

    python -m bench.pictures [--json FILE] [SERVE FLAGS]...

Starts `octet serve` with the flags, lets one caller stream text all the time, and meanwhile lets another
send pictures that are hard on whoever decodes them. Prints, for each kind, the gaps between the parts of the
stream, and the memory of all the server's processes (unique set size) before, at most, and 5 s after.
"""

import argparse
import asyncio
import itertools
import json
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from bench.overload import serving
from octet.bench import machine
from octet.v1 import chat_service_pb2, chat_service_pb2_grpc, content_pb2
from tests.pictures import flat, flat_png, slow_jpeg

UNDISTURBED_SECONDS = 5.0
AFTER_SECONDS = 5.0
TIMEOUT_SECONDS = 60.0
_OPTIONS = [("grpc.max_send_message_length", -1)]


@dataclass(frozen=True, slots=True)
class Case:
    """What the second caller sends: so many requests at once, each with these pictures."""

    name: str
    requests: int
    pictures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a case cost.

    Attributes:
        name: the case's.
        codes: how its requests ended.
        seconds: until the last of them had.
        p50_ms: between parts of the other caller's stream, meanwhile.
        p99_ms: likewise.
        largest_ms: likewise.
        before_mib: memory of the server's processes.
        peak_mib: at most, meanwhile.
        after_mib: some seconds later.
    """

    name: str
    codes: dict[str, int]
    seconds: float
    p50_ms: float
    p99_ms: float
    largest_ms: float
    before_mib: float
    peak_mib: float
    after_mib: float


def cases() -> Iterator[Case]:
    """The kinds of pictures, from none to the worst."""
    yield Case("nothing", 0, ())
    yield Case("8 photographs of 12 megapixels", 8, (photograph(4032, 3024),))
    yield Case("a WebP file of 8000 x 8000", 1, (flat("WEBP", 8000),))
    yield Case("a request with 8 of them", 1, (flat("WEBP", 8000),) * 8)
    yield Case("12 chats with a JPEG file of 18 MB", 12, (photograph(7400, 5550, quality=78),))
    yield Case("a PNG file of 1 x 64,000,000", 1, (flat_png(1, 64_000_000),))
    yield Case("a PNG file of 1000 x 64,000", 1, (flat_png(1000, 64_000),))
    yield Case("4 JPEG files of 90 scans", 4, (slow_jpeg(),))


def photograph(width: int, height: int, quality: int = 85) -> bytes:
    """A JPEG file with so much noise in it that it takes as much room as a photograph does."""
    noise = Image.effect_noise((width // 2, height // 2), 60).resize((width, height))
    file = BytesIO()
    Image.merge("RGB", (noise, noise.transpose(Image.Transpose.ROTATE_180), noise)).save(
        file, "JPEG", quality=quality
    )
    return file.getvalue()


class Stream:
    """A caller who streams text all the time, and when each part of it came."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.times: list[float] = []
        self.flowing = asyncio.Event()

    async def run(self) -> None:
        """Streams until it is cancelled."""
        while True:
            turn = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text="Count.")])
            request = chat_service_pb2.ChatRequest(messages=[turn])
            request.sampling.max_tokens = 400
            request.sampling.ignore_eos = True
            async for chunk in self._stub.StreamChat(request):
                if chunk.deltas:
                    self.times.append(time.monotonic())
                    self.flowing.set()

    def gaps(self, start: float, end: float) -> list[float]:
        """Milliseconds between parts that came in that time."""
        times = [start, *(moment for moment in self.times if start <= moment <= end), end]
        return [1000 * (b - a) for a, b in itertools.pairwise(times)]


class Memory:
    """Follows the memory of the server's processes, which are this one's children's."""

    def __init__(self) -> None:
        self.peak = 0.0

    def now(self) -> float:
        """MiB that only they have."""
        total = 0
        for process in psutil.Process().children(recursive=True):
            try:
                total += process.memory_full_info().uss
            except psutil.Error:
                continue
        return total / 2**20

    async def run(self) -> None:
        """Follows it until it is cancelled."""
        while True:
            self.peak = max(self.peak, await asyncio.to_thread(self.now))
            await asyncio.sleep(0.05)


async def send(stub: Any, pictures: tuple[bytes, ...]) -> str:
    """Sends a request with pictures; returns how it ended."""
    turn = content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(text="What is it?")])
    for picture in pictures:
        turn.parts.add(image=content_pb2.Image(data=picture))
    request = chat_service_pb2.ChatRequest(messages=[turn])
    request.sampling.max_tokens = 4
    try:
        await stub.Chat(request, timeout=TIMEOUT_SECONDS)
    except grpc.aio.AioRpcError as error:
        print(f"  {error.code().name}: {error.details()}", file=sys.stderr)
        return error.code().name
    return "OK"


async def measure(target: str) -> list[Cost]:
    """Measures every case, one after the other."""
    costs = []
    async with (
        grpc.aio.insecure_channel(target) as streaming,
        grpc.aio.insecure_channel(target, options=_OPTIONS) as sending,
    ):
        stream = Stream(chat_service_pb2_grpc.ChatServiceStub(streaming))
        other = chat_service_pb2_grpc.ChatServiceStub(sending)
        flow = asyncio.create_task(stream.run())
        await stream.flowing.wait()
        await send(other, (flat_png(64, 64),))
        for case in cases():
            memory = Memory()
            before = memory.now()
            following = asyncio.create_task(memory.run())
            start = time.monotonic()
            codes = await asyncio.gather(*(send(other, case.pictures) for _ in range(case.requests)))
            if not case.requests:
                await asyncio.sleep(UNDISTURBED_SECONDS)
            end = time.monotonic()
            await asyncio.sleep(AFTER_SECONDS)
            following.cancel()
            gaps = stream.gaps(start, max(end, start + 1))
            cost = Cost(
                case.name,
                dict(Counter(codes)),
                end - start,
                statistics.median(gaps),
                statistics.quantiles(gaps, n=100, method="inclusive")[98] if len(gaps) > 1 else gaps[0],
                max(gaps),
                before,
                memory.peak,
                memory.now(),
            )
            print(cost, file=sys.stderr, flush=True)
            costs.append(cost)
        flow.cancel()
    return costs


def table(costs: list[Cost]) -> Table:
    """The costs, a row each."""
    shown = Table(box=box.SIMPLE)
    for title in ("sent", "ended", "after s", "gap p50 ms", "p99", "largest", "memory MiB", "peak", "later"):
        shown.add_column(title, justify="left" if title in ("sent", "ended") else "right")
    for cost in costs:
        ended = ", ".join(f"{count} {code}" for code, count in cost.codes.items())
        numbers = (cost.p50_ms, cost.p99_ms, cost.largest_ms, cost.before_mib, cost.peak_mib, cost.after_mib)
        shown.add_row(cost.name, ended, f"{cost.seconds:.1f}", *(f"{number:.0f}" for number in numbers))
    return shown


def main() -> None:
    """Measures, prints the table, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(description="Send a server pictures that are hard to decode.")
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    arguments, flags = parser.parse_known_args()

    async def run() -> list[Cost]:
        async with serving(flags) as target:
            return await measure(target)

    # So that a time limit ends the server as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    costs = asyncio.run(run())
    described = machine.describe("cpu")
    console = Console(width=200)
    console.print(machine.summary(described), markup=False, highlight=False)
    console.print(table(costs))
    if arguments.json_file is not None:
        report = {"machine": described, "costs": [asdict(cost) for cost in costs]}
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
