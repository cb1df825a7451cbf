"""Puts loads on a target, one after the other, in turns."""

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from octet.bench.serving.arrivals import Arrival, poisson
from octet.bench.serving.content import Scale
from octet.bench.serving.figures import Figures, Objective
from octet.bench.serving.lengths import Fixed, Length
from octet.bench.serving.orders import Kind, Order, draw_orders
from octet.bench.serving.play import OK, Outcome, Prepared, closed, open_ended
from octet.bench.serving.target import Failure, Form, Target

# Words of the prompts that are counted to learn how many tokens words are.
_FEW_WORDS, _MANY_WORDS = 8, 72
_LEAST_REQUESTS = 16
_REQUESTS_A_STREAM = 4


@dataclass(frozen=True, slots=True)
class Closed:
    """So many streams, each of which sends its next request when it has its answer."""

    streams: int

    def __str__(self) -> str:
        return "1 stream" if self.streams == 1 else f"{self.streams} streams"


@dataclass(frozen=True, slots=True)
class Open:
    """Requests that arrive at random, so many a second on average."""

    rate: float

    def __str__(self) -> str:
        return f"{self.rate:g} a second"


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests that arrive as a trace says."""

    arrivals: tuple[Arrival, ...]

    def __str__(self) -> str:
        return f"trace of {len(self.arrivals)}"


Level = Closed | Open | Trace


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Attributes:
        levels: the loads.
        turns: how often each of them is put on, one after the other.
        mix: kinds of requests with their shares, where no trace says them.
        prompt: lengths of prompts, likewise.
        answer: lengths of answers, likewise.
        requests: of a closed loop; None: 4 a stream, at least 16.
        seconds: how long requests arrive in an open loop.
        warm_up: requests, one at a time, that do not count.
        seed: decides on kinds, lengths, arrivals, words and pictures.
        form: what requests have in common; its scale is measured.
        objective: what goodput counts; None: there is none.
    """

    levels: Sequence[Level]
    turns: int = 1
    mix: dict[Kind, float] = field(default_factory=lambda: {Kind.TEXT: 1.0})
    prompt: Length = field(default_factory=lambda: Fixed(128))
    answer: Length = field(default_factory=lambda: Fixed(128))
    requests: int | None = None
    seconds: float = 30.0
    warm_up: int = 4
    seed: int = 0
    form: Form = field(default_factory=Form)
    objective: Objective | None = None

    def orders(self, level: Level) -> list[Order]:
        """What is asked at a level; in each turn, and of each target, the same."""
        # Not of the level: with more streams the same requests come sooner.
        chance = random.Random(self.seed)
        if isinstance(level, Trace):
            return [
                Order(number, each.kind, each.prompt_tokens, each.answer_tokens, each.seconds)
                for number, each in enumerate(level.arrivals)
            ]
        if isinstance(level, Open):
            dues = poisson(level.rate, self.seconds, chance)
            return draw_orders(len(dues), self.mix, self.prompt, self.answer, chance, dues)
        count = self.requests or max(_LEAST_REQUESTS, _REQUESTS_A_STREAM * level.streams)
        return draw_orders(count, self.mix, self.prompt, self.answer, chance)


class Progress(Protocol):
    """Whoever watches."""

    def begin(self, what: str, requests: int) -> None:
        """A load begins."""
        ...

    def note(self, outcome: Outcome) -> None:
        """One of its requests has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """A level, with what came of each turn."""

    level: Level
    turns: list[Figures]


async def run(target: Target, settings: Settings, progress: Progress) -> list[Measured]:
    """Measures every level in every turn.

    Raises:
        Failure: the target answers not even one request that is alone.
    """
    form = await ready(target, settings.form)
    await _warm_up(target, settings, form, progress)
    measured = [Measured(level, []) for level in settings.levels]
    for turn in range(settings.turns):
        for each in measured:
            salted = replace(form, salt=f"{settings.seed}/{turn}/{each.level}")
            # A picture takes milliseconds to write: not while the clock runs, nor on a loop with connections.
            work = await asyncio.to_thread(_prepare, target, settings.orders(each.level), salted)
            what = f"{each.level}, turn {turn + 1} of {settings.turns}"
            progress.begin(what if settings.turns > 1 else str(each.level), len(work))
            if isinstance(each.level, Closed):
                load = await closed(target, work, each.level.streams, progress.note)
            else:
                load = await open_ended(target, work, progress.note)
            each.turns.append(Figures.of([load], settings.objective))
    return measured


async def ready(target: Target, form: Form) -> Form:
    """Connects to a target, and learns how many tokens words are to it.

    Returns:
        The form with that.

    Raises:
        Failure: the target does not answer.
    """
    await target.open()
    if target.takes_tokens:
        await _count(target, form, 1)
        return form
    # With one token a word, as many tokens are asked for as there are to be words.
    counting = replace(form, scale=Scale(0.0, 1.0), salt="counting")
    few = await _count(target, counting, _FEW_WORDS)
    many = await _count(target, counting, _MANY_WORDS)
    try:
        return replace(form, scale=Scale.through((_FEW_WORDS, few), (_MANY_WORDS, many)))
    except ValueError as error:
        raise Failure("NO_USAGE", f"the server's numbers of tokens make no sense: {error}") from None


async def _count(target: Target, form: Form, length: int) -> int:
    """The tokens of a prompt, by the server's own count."""
    order = Order(0, Kind.TEXT, length, 1)
    load = await closed(target, [(order, target.prepare(order, form))], 1, lambda outcome: None)
    [outcome] = load.outcomes
    if outcome.status != OK or outcome.usage is None:
        raise Failure(outcome.status, outcome.message)
    return outcome.usage.prompt_tokens


async def _warm_up(target: Target, settings: Settings, form: Form, progress: Progress) -> None:
    """Sends the first orders of the first level. What fails here fails again where it counts."""
    orders = settings.orders(settings.levels[0])[: settings.warm_up]
    work = await asyncio.to_thread(_prepare, target, orders, replace(form, salt=f"{settings.seed}/warm"))
    progress.begin("warming up", len(work))
    await closed(target, work, 1, progress.note)


def _prepare(target: Target, orders: Sequence[Order], form: Form) -> list[Prepared]:
    return [(order, target.prepare(order, form)) for order in orders]


def failed_share(measured: Sequence[Measured]) -> float:
    """The largest share of a level's requests that were not answered; NaN where nothing was measured."""
    shares = [figures.failed_share for each in measured for figures in each.turns]
    return max(shares, default=math.nan)
