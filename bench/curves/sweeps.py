"""What is varied, with everything else as it is."""

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.serving import Server, octet_serve, serving
from octet.bench.serving.figures import Figures
from octet.bench.serving.lengths import Fixed
from octet.bench.serving.octet_grpc import OctetTarget
from octet.bench.serving.orders import Kind
from octet.bench.serving.play import Outcome
from octet.bench.serving.run import Closed, Settings, run
from octet.bench.serving.target import Form
from octet.client import AsyncClient
from octet.engine.vllm.launch.threads import BINDING

STREAMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHORTEST_PROMPT = 64
PICTURES = (0, 1, 2, 3, 4)
REPLICAS = (1, 2, 3)

PROMPT_TOKENS = 32
ANSWER_TOKENS = 64
# Where prompts and pictures vary, one request at a time: long enough for a median step.
_SHORT_ANSWER = 16
_REQUESTS_ALONE = 8
REPLICAS_STREAMS = 48
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Point:
    """A value of what varies, with the turns that it was measured in."""

    x: int
    turns: list[Figures]


@dataclass(frozen=True, slots=True)
class Curve:
    """What was measured while one thing varied.

    Attributes:
        name: of what varies.
        axis: the same, for plots and tables.
        points: by growing value.
        fixed: what did not vary, in words.
    """

    name: str
    axis: str
    points: list[Point]
    fixed: str

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        points = [{"x": point.x, "turns": [turn.as_json() for turn in point.turns]} for point in self.points]
        return {"name": self.name, "axis": self.axis, "fixed": self.fixed, "points": points}


class _Silent:
    """Says on standard error what is measured, and nothing of single requests."""

    def begin(self, what: str, requests: int) -> None:
        print(f"{what}: {requests} requests", file=sys.stderr)

    def note(self, outcome: Outcome) -> None:
        pass


_SILENT = _Silent()


async def of_one_server(flags: Sequence[str], turns: int, most_streams: int) -> list[Curve]:
    """The curves of a single server: streams, prompt length, pictures.

    Raises:
        RuntimeError: it does not start.
    """
    async with serving(*octet_serve(list(flags))) as server:
        longest, most_pictures = await _limits(server)
        async with _asked(server.target) as target:
            streams = [count for count in STREAMS if count <= most_streams]
            found = [await _streams(target, streams, turns)]
            found.append(await _prompts(target, prompt_lengths(longest - _SHORT_ANSWER), turns))
            if most_pictures:
                pictures = [count for count in PICTURES if count <= most_pictures]
                found.append(await _pictures(target, pictures, turns))
            return found


def prompt_lengths(longest: int) -> list[int]:
    """Twice as long each time, and the longest; a twentieth less, for words are not tokens."""
    lengths = []
    length = SHORTEST_PROMPT
    while length < longest * 0.95:
        lengths.append(length)
        length *= 2
    return [*lengths, int(longest * 0.95)]


async def _limits(server: Server) -> tuple[int, int]:
    """The context window, and how many pictures a request may hold."""
    async with AsyncClient(server.target) as client:
        [model, *_] = await client.list_models()
    return model.context_window, model.image_limits.max_images


@asynccontextmanager
async def _asked(address: str) -> AsyncIterator[OctetTarget]:
    target = OctetTarget(address, timeout=_TIMEOUT)
    try:
        yield target
    finally:
        await target.close()


async def _streams(target: OctetTarget, streams: Sequence[int], turns: int) -> Curve:
    settings = Settings(
        levels=[Closed(count) for count in streams],
        turns=turns,
        prompt=Fixed(PROMPT_TOKENS),
        answer=Fixed(ANSWER_TOKENS),
    )
    measured = await run(target, settings, _SILENT)
    points = [Point(count, each.turns) for count, each in zip(streams, measured, strict=True)]
    fixed = f"prompts of {PROMPT_TOKENS} tokens, answers of {ANSWER_TOKENS}"
    return Curve("streams", "streams at once", points, fixed)


def _alone(**changed: Any) -> Settings:
    """One request at a time."""
    settings = Settings(
        levels=[Closed(1)],
        requests=_REQUESTS_ALONE,
        prompt=Fixed(PROMPT_TOKENS),
        answer=Fixed(_SHORT_ANSWER),
        warm_up=1,
    )
    return replace(settings, **changed)


async def _points(target: OctetTarget, settings: dict[int, Settings], turns: int) -> list[Point]:
    """Goes through all values in every turn."""
    points = [Point(x, []) for x in settings]
    for turn in range(turns):
        for point in points:
            # Another seed: what was asked before is in the prefix cache.
            [measured] = await run(target, replace(settings[point.x], seed=turn * 1000 + point.x), _SILENT)
            point.turns.extend(measured.turns)
    return points


async def _prompts(target: OctetTarget, lengths: Sequence[int], turns: int) -> Curve:
    settings = {length: _alone(prompt=Fixed(length)) for length in lengths}
    fixed = f"one request at a time, answers of {_SHORT_ANSWER} tokens"
    return Curve("prompt", "tokens of the prompt", await _points(target, settings, turns), fixed)


async def _pictures(target: OctetTarget, counts: Sequence[int], turns: int) -> Curve:
    settings = {
        count: _alone(mix={Kind.PICTURE: 1.0}, form=Form(pictures=count)) if count else _alone()
        for count in counts
    }
    fixed = f"one request at a time, PNG files of 896 x 896 pixels, answers of {_SHORT_ANSWER} tokens"
    return Curve("pictures", "pictures of a request", await _points(target, settings, turns), fixed)


async def of_replicas(flags: Sequence[str], turns: int) -> list[Curve]:
    """Replicas behind Envoy, each computing on one core, of its own while there are any; one without Envoy.

    Raises:
        RuntimeError: one of them does not start.
    """
    from tests.e2e.envoy import envoy

    settings = Settings(
        levels=[Closed(REPLICAS_STREAMS)],
        prompt=Fixed(PROMPT_TOKENS),
        answer=Fixed(ANSWER_TOKENS),
    )
    cores = sorted(os.sched_getaffinity(0))
    fixed = (
        f"{REPLICAS_STREAMS} streams in all, prompts of {PROMPT_TOKENS} tokens, answers of {ANSWER_TOKENS}"
    )
    direct = Point(1, [])
    points = [Point(replicas, []) for replicas in REPLICAS]
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(max(REPLICAS)):
            environment = os.environ | {BINDING: str(cores[number % len(cores)])}
            started = serving(*octet_serve(list(flags)), environment=environment)
            servers.append(await stack.enter_async_context(started))
        ports = [int(server.target.rpartition(":")[2]) for server in servers]
        for turn in range(turns):
            seeded = replace(settings, seed=turn)
            direct.turns.extend(await _turn(servers[0].target, seeded))
            for point in points:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="octet-envoy-"))
                with envoy("grpc.yaml", ports[: point.x], Path(folder)) as address:
                    point.turns.extend(await _turn(address, replace(seeded, seed=turn * 10 + point.x)))
    return [
        Curve("direct", "replicas, no Envoy", [direct], fixed),
        Curve("replicas", "replicas behind Envoy", points, fixed),
    ]


async def _turn(address: str, settings: Settings) -> list[Figures]:
    async with _asked(address) as target:
        [measured] = await run(target, settings, _SILENT)
        return measured.turns
