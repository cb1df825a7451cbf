"""Sends requests and takes the time: one clock for everything that is measured."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from octet.bench.serving.orders import Order
from octet.bench.serving.target import Failure, Target, Usage

OK = "OK"

Prepared = tuple[Order, Any]
"""An order, and the request that a target has made of it."""

Note = Callable[["Outcome"], None]
"""Is told of every request that has ended."""


@dataclass(slots=True)
class Outcome:
    """What became of a request. All times are seconds after the load's beginning.

    Attributes:
        order: what was to be asked.
        due: when it was to be sent.
        sent: when it was.
        ended: when the answer, or the failure, was complete.
        status: `OK`, or the failure's.
        message: the failure's sentence.
        pieces: when tokens came, in order.
        first_text: when the first piece came that there is something to show of; None: there was none.
        usage: what the server counted; None without an answer.
    """

    order: Order
    due: float
    sent: float
    ended: float = 0.0
    status: str = OK
    message: str = ""
    pieces: list[float] = field(default_factory=list)
    first_text: float | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load.

    Attributes:
        outcomes: of all requests, as they ended.
        seconds: from the beginning to the last end.
        client_share: processor seconds that this program's loop took, a second: near 1 it is what limits.
    """

    outcomes: list[Outcome]
    seconds: float
    client_share: float


async def closed(target: Target, work: Iterable[Prepared], streams: int, note: Note) -> Load:
    """Keeps `streams` requests going until all are made: a stream sends its next one when it has its answer.

    Args:
        target: what is asked.
        work: the requests, in the order in which they are sent.
        streams: how many at once.
        note: is told of every end.
    """
    clock = _Clock()
    left = iter(work)
    outcomes: list[Outcome] = []

    async def keep_asking() -> None:
        for order, request in left:
            outcome = await _ask(target, order, request, clock, clock.now())
            outcomes.append(outcome)
            note(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(keep_asking())
    return clock.load(outcomes)


async def open_ended(target: Target, work: Sequence[Prepared], note: Note) -> Load:
    """Sends every request when it is due, whether or not others have been answered; waits for all answers.

    Args:
        target: what is asked.
        work: the requests, whose orders say when they are due, in that order.
        note: is told of every end.
    """
    clock = _Clock()
    outcomes: list[Outcome] = []

    async def ask(order: Order, request: Any, due: float) -> None:
        outcome = await _ask(target, order, request, clock, due)
        outcomes.append(outcome)
        note(outcome)

    async with asyncio.TaskGroup() as group:
        for order, request in work:
            assert order.due is not None, "the order of an open loop has a time"
            await asyncio.sleep(order.due - clock.now())
            group.create_task(ask(order, request, order.due))
    return clock.load(outcomes)


async def _ask(target: Target, order: Order, request: Any, clock: "_Clock", due: float) -> Outcome:
    now = clock.now
    outcome = Outcome(order, due, now())
    pieces = outcome.pieces
    try:
        async with aclosing(target.stream(request)) as events:
            async for event in events:
                if isinstance(event, Usage):
                    outcome.usage = event
                    continue
                pieces.append(now())
                if event.shown and outcome.first_text is None:
                    outcome.first_text = pieces[-1]
    except Failure as failure:
        outcome.status, outcome.message = failure.status, failure.message
    outcome.ended = now()
    return outcome


class _Clock:
    """Seconds since a load began, and what of them this thread has computed."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._computed = time.thread_time()

    def now(self) -> float:
        return time.perf_counter() - self._began

    def load(self, outcomes: list[Outcome]) -> Load:
        seconds = max((outcome.ended for outcome in outcomes), default=0.0)
        computed = time.thread_time() - self._computed
        return Load(outcomes, seconds, computed / seconds if seconds else 0.0)
