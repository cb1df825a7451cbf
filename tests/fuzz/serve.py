"""The server that is fuzzed: `octet serve` around a scripted engine, or around the demo checkpoint.

    python -m tests.fuzz.serve scripted|demo [--faults]

It logs when its event loop stood still for longer than a second, and on SIGUSR1, behind all that it has
logged, which of its slots are taken. With --faults the scripted engine does what no engine may when it is
asked to, so that whoever looks for faults can be seen to find them.
"""

import asyncio
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from octet.cli.serve import serve_engine
from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Event,
    FinishReason,
    GenerationRequest,
    PromptAccepted,
    TextPart,
)
from octet.engine.vllm.constraints.checker import Checker
from octet.engine.vllm.constraints.request import is_constrained, to_constraint, verified
from octet.engine.vllm.serving.answer import AnswerReader, scanner_of
from octet.engine.vllm.serving.begun import begun_turn
from octet.server import lifecycle
from octet.server.server import Server
from tests.fuzz.cases import KEYS
from tests.integration.fake_engine import FakeEngine, accepted, said_in, usage

logger = logging.getLogger("octet")

MAX_STALL_SECONDS = 1.0
BEAT_SECONDS = 0.1

REQUESTS_OF_A_KEY = 6

_PIECES = (1, 1, 2, 3, 7, 40, 4000)
_MOST_PIECES = 2000
_FAULTS = ("raise", "stall", "leak", "hang", "exit")


class Scripted:
    """Says what the last message says, in pieces cut by lot, read as the real engine reads answers.

    Constraints are compiled as the real engine compiles them, and not followed.
    """

    def __init__(self, *, faults: bool) -> None:
        self._checker = Checker()
        self._faults = faults
        self._leaked: list[bytes] = []

    async def __call__(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.prompt is not None:
            said = said_in(request.prompt)
        else:
            said = "".join(part.text for part in request.messages[-1].parts if isinstance(part, TextPart))
        if self._faults and said in _FAULTS:
            await self._fail(said)
        await self.constrain(request)
        yield PromptAccepted(prompt_tokens=7, image_tokens=0)
        tokens = 0
        readers = [_reader(request, index) for index in range(request.sampling.n)]
        open_readers = dict(enumerate(readers))
        for piece, last in _pieces(said, request.sampling.max_tokens):
            for index, reader in list(open_readers.items()):
                tokens += 1
                deltas = reader.read(piece, [], [], finished=last)
                if last or reader.done:
                    del open_readers[index]
                    reason = FinishReason.TOOL_CALLS if reader.made_calls else FinishReason.STOP
                    deltas.append(CandidateFinished(index, reason))
                if deltas:
                    yield Deltas(tuple(deltas), usage(tokens))
            await asyncio.sleep(0)

    async def constrain(self, request: GenerationRequest) -> None:
        """Compiles what the answer is held to."""
        if is_constrained(request):
            constraint = await asyncio.to_thread(to_constraint, request)
            if begun := begun_turn(request.messages):
                constraint = constraint.going_on(begun.text, begun.field)
            await verified(constraint, self._checker.check)

    async def _fail(self, fault: str) -> None:
        match fault:
            case "raise":
                raise RuntimeError("a fault that was asked for")
            case "leak":
                self._leaked.append(b"x" * 2**28)
            case "stall":
                until = time.thread_time() + 1.5 * MAX_STALL_SECONDS
                while time.thread_time() < until:
                    pass
            case "exit":
                os._exit(3)
            case "hang":
                while True:
                    with suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()

    def close(self) -> None:
        """Ends the process that compiles constraints."""
        self._checker.close()


def _reader(request: GenerationRequest, index: int) -> AnswerReader:
    one_call = not request.tool_choice.parallel_calls
    begun = begun_turn(request.messages)
    scanner = scanner_of(request, begun, whole_calls=False) if request.tools else None
    return AnswerReader(index, scanner, None, None, one_call=one_call)


def _pieces(said: str, most: int | None) -> Iterator[tuple[str, bool]]:
    """The pieces of a text, and whether each is the last; the same of the same text."""
    lots = random.Random(zlib.crc32(said.encode()))
    at, count = 0, 1
    most = min(most or _MOST_PIECES, _MOST_PIECES)
    while count < most and at < len(said):
        end = at + lots.choice(_PIECES)
        yield said[at:end], False
        at, count = end, count + 1
    yield said[at:], True


class ScriptedEngine(FakeEngine):
    """An engine over a script, with what it has to end."""

    def __init__(self, script: Scripted) -> None:
        super().__init__(script)
        self._said = script

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        async for event in super().generate(request):
            yield event
        # Requests are remembered for tests that ask about them; here there is no end of them.
        self.requests.clear()

    async def count_tokens(self, request: GenerationRequest) -> PromptAccepted:
        await self._said.constrain(request)
        return accepted()

    def close(self) -> None:
        super().close()
        self._said.close()


class StallWatch:
    """Notices when the event loop's thread has not come to its next turn for too long.

    What counts is the processor time that the thread took meanwhile, or the time in which no thread of the
    process waited for a core, if that is more: so nobody else's load on the machine is taken for a stall.
    """

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self._stack = ""
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._look, name="stalls", daemon=True).start()

    async def beaten(self) -> None:
        """Returns when the loop's turns until now have been judged."""
        while time.monotonic() - self._beat > 2 * BEAT_SECONDS:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Beats until it is cancelled."""
        while True:
            began, used, waited = time.monotonic(), time.thread_time(), _seconds_without_core()
            self._beat = began
            await asyncio.sleep(BEAT_SECONDS)
            late = time.monotonic() - began - BEAT_SECONDS
            if late > MAX_STALL_SECONDS:
                stood = late - (_seconds_without_core() - waited)
                self._judge(max(time.thread_time() - used, stood))

    def _judge(self, seconds: float) -> None:
        if seconds > MAX_STALL_SECONDS:
            logger.error("fuzz: STALL of %.2f s in %s", seconds, self._stack)

    def _look(self) -> None:
        """Remembers what the loop's thread is at while it is late."""
        while True:
            time.sleep(BEAT_SECONDS)
            if time.monotonic() - self._beat > MAX_STALL_SECONDS / 2:
                frame = sys._current_frames().get(self._loop_thread)
                self._stack = " < ".join(_frames(frame))


class WatchedServer(Server):
    """A server that says what is taken of it."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._tasks: list[asyncio.Task[None]] = []

    async def attach(self, engine: Engine) -> None:
        """Opens for calls, and for SIGUSR1."""
        await super().attach(engine)
        loop = asyncio.get_running_loop()
        stalls = StallWatch()
        self._tasks.append(loop.create_task(stalls.run()))

        async def tell() -> None:
            await stalls.beaten()
            taken = {**asdict(self.admission.load()), "unfinished": await engine.num_unfinished()}
            [in_flight] = self.metrics.rpc_in_flight.collect()
            taken |= {sample.labels["method"]: sample.value for sample in in_flight.samples}
            logger.info("fuzz: taken %s", json.dumps({name: count for name, count in taken.items() if count}))

        loop.add_signal_handler(signal.SIGUSR1, lambda: self._tasks.append(loop.create_task(tell())))


def _frames(frame: Any) -> Iterator[str]:
    for _ in range(6):
        if frame is None:
            return
        code = frame.f_code
        yield f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back


def _seconds_without_core() -> float:
    """How long threads of this process were ready to run and had no core, in all."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):
            # It has ended.
            continue
    return total / 1e9


async def _demo_engine() -> Engine:
    from octet import demo
    from octet.engine.vllm.launch.args import parse_engine_args
    from octet.engine.vllm.serving.engine import create_engine

    flags = ("--enforce-eager", "--kv-cache-memory-bytes", "256M", "--max-num-seqs", "8")
    return await create_engine(
        await asyncio.to_thread(parse_engine_args, [str(demo.PATH), *flags, "--served-model-name", "fake"])
    )


async def _create_servicer(engine: Any) -> Any:
    from octet.engine.vllm.serving import smg

    return await smg.create_servicer(engine, max_image_bytes=2**20, image_threads=2)


def _write_adapters(folder: Path) -> None:
    """What AdminService is given: the keys of callers; some adapters, and what is none."""
    root = folder / "root"
    for name in ("good", "other", "broken", "empty"):
        (root / name).mkdir(parents=True)
        for file in ("adapter_config.json", "adapter_model.safetensors") if name != "empty" else ():
            (root / name / file).write_text("{}")
    (root / "out").symlink_to("/etc")
    (folder / "keys").write_text("".join(f"{name} {name}\n" for name in KEYS))


def main() -> None:
    """The command."""
    with tempfile.TemporaryDirectory(prefix="octet-fuzz-") as folder:
        _write_adapters(Path(folder))
        _serve(Path(folder))


def _serve(folder: Path) -> None:
    demo = sys.argv[1] == "demo"

    async def start() -> Engine:
        return await _demo_engine() if demo else ScriptedEngine(Scripted(faults="--faults" in sys.argv))

    lifecycle.Server = WatchedServer  # type: ignore[misc]
    keys = "".join(f"{name} {name} max_concurrent_requests={REQUESTS_OF_A_KEY}\n" for name in KEYS)
    config = ServerConfig(
        port=0,
        grace_seconds=0,
        drain_seconds=5,
        api_keys=keys,
        channelz=True,
        smg=demo,
        kserve=True,
        admin_keys_file=str(folder / "keys"),
        adapter_root=str(folder / "root"),
        max_image_bytes=2**20,
        image_decode_seconds=2,
    )
    serve_engine(config, start, _create_servicer if demo else None)


if __name__ == "__main__":
    main()
