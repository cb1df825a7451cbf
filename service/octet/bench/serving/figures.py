"""Numbers out of what became of requests.

Times count from the moment when a request was due. In an open loop that is its arrival, not when this program
or the server came to it: what waits for others is measured as those who wait see it.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octet.bench.serving.play import OK, Load, Outcome

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Spread:
    """How values of a kind are distributed.

    Attributes:
        count: how many there are; without any, all others are NaN.
        mean: their mean.
        most: the greatest.
        percentiles: by percent, those of PERCENTILES; between two values on the line through them.
    """

    count: int
    mean: float
    most: float
    percentiles: Mapping[int, float]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarizes values."""
        ordered = sorted(values)
        if not ordered:
            return cls(0, math.nan, math.nan, dict.fromkeys(PERCENTILES, math.nan))
        percentiles = {percent: percentile(ordered, percent) for percent in PERCENTILES}
        return cls(len(ordered), statistics.fmean(ordered), ordered[-1], percentiles)

    def as_json(self) -> dict[str, float]:
        """The same as JSON values; of nothing, the count alone."""
        if not self.count:
            return {"count": 0}
        named = {f"p{percent}": value for percent, value in self.percentiles.items()}
        return {"count": self.count, "mean": self.mean, "max": self.most} | named


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value that so many percent of `ordered`, which has one at least, do not exceed.

    Between two of them it is on the line through both, as numpy has it by default.
    """
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one answer; None where there is nothing to measure.

    Attributes:
        first_token: until the first token.
        first_text: until the first piece that there is something to show of.
        per_token: between tokens, on average, after the first.
        longest_gap: between two pieces.
        total: until the end.
    """

    first_token: float | None
    first_text: float | None
    per_token: float | None
    longest_gap: float | None
    total: float

    @classmethod
    def of(cls, outcome: Outcome) -> "Times":
        """Those of an answer."""
        pieces = outcome.pieces
        tokens = outcome.usage.answer_tokens if outcome.usage is not None else 0
        return cls(
            first_token=pieces[0] - outcome.due if pieces else None,
            first_text=None if outcome.first_text is None else outcome.first_text - outcome.due,
            per_token=(pieces[-1] - pieces[0]) / (tokens - 1) if tokens > 1 and len(pieces) > 1 else None,
            longest_gap=max(gaps(outcome), default=None),
            total=outcome.ended - outcome.due,
        )


def gaps(outcome: Outcome) -> list[float]:
    """Seconds between pieces that came one after the other."""
    return [later - sooner for sooner, later in zip(outcome.pieces, outcome.pieces[1:], strict=False)]


_OBJECTIVES: dict[str, Callable[[Times], float | None]] = {
    "ttft": lambda times: times.first_token,
    "text": lambda times: times.first_text,
    "tpot": lambda times: times.per_token,
    "gap": lambda times: times.longest_gap,
    "total": lambda times: times.total,
}
"""What a limit can be set to."""
_ALWAYS_MEASURED = ("ttft", "text", "total")
"""An answer that has not even this has not met its limit."""
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Objective:
    """What an answer has to be like to count.

    Attributes:
        limits: most seconds, by the names of _OBJECTIVES.
    """

    limits: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """Reads limits such as `ttft=200ms,tpot=50ms`; units are us, ms and s.

        Raises:
            ValueError: with a sentence that says what is wrong.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            if name not in _OBJECTIVES:
                raise ValueError(f"{part!r}: give NAME=TIME, NAME one of {', '.join(_OBJECTIVES)}")
            if name in limits:
                raise ValueError(f"{name} has two limits")
            limits[name] = _seconds(value)
        return cls(limits)

    def is_met(self, outcome: Outcome) -> bool:
        """Whether a request was answered, and within all limits."""
        if outcome.status != OK:
            return False
        times = Times.of(outcome)
        measured = {name: _OBJECTIVES[name](times) for name in self.limits}
        return all(
            name not in _ALWAYS_MEASURED if value is None else value <= self.limits[name]
            for name, value in measured.items()
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} <= {limit * 1e3:g} ms" for name, limit in self.limits.items())


def _seconds(text: str) -> float:
    unit = next((unit for unit in _UNITS if text.endswith(unit)), None)
    try:
        seconds = float(text.removesuffix(unit or "")) * _UNITS[unit or ""]
    except (ValueError, KeyError):
        raise ValueError(f"{text!r} is no time such as 200ms or 1.5s") from None
    if not 0 < seconds < math.inf:
        raise ValueError(f"{text!r} is not more than 0")
    return seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a load, or of the same load several times, put together.

    Latencies and tokens are those of requests that were answered to the end.

    Attributes:
        statuses: requests by how they ended; `OK` is answered.
        messages: one failure's sentence for each status but `OK`.
        seconds: that the load lasted, in all.
        prompt_tokens: of all that was answered.
        answer_tokens: likewise.
        first_token: seconds until the first token.
        first_text: seconds until there is something to show.
        per_token: seconds a token after the first, a value an answer.
        gap: seconds between pieces, a value a gap.
        total: seconds until the end.
        lag: seconds by which this program sent requests late.
        client_share: of a core that this program's loop took.
        met: requests that met the objective; None without one.
    """

    statuses: Mapping[str, int]
    messages: Mapping[str, str]
    seconds: float
    prompt_tokens: int
    answer_tokens: int
    first_token: Spread
    first_text: Spread
    per_token: Spread
    gap: Spread
    total: Spread
    lag: Spread
    client_share: float
    met: int | None

    @classmethod
    def of(cls, loads: Sequence[Load], objective: Objective | None = None) -> "Figures":
        """Those of loads that were put on one after the other."""
        outcomes = [outcome for load in loads for outcome in load.outcomes]
        answered = [outcome for outcome in outcomes if outcome.status == OK]
        usages = [outcome.usage for outcome in answered if outcome.usage is not None]
        times = [Times.of(outcome) for outcome in answered]
        seconds = sum(load.seconds for load in loads)
        return cls(
            statuses=dict(Counter(outcome.status for outcome in outcomes)),
            messages={o.status: o.message for o in reversed(outcomes) if o.status != OK},
            seconds=seconds,
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            answer_tokens=sum(usage.answer_tokens for usage in usages),
            first_token=_spread(each.first_token for each in times),
            first_text=_spread(each.first_text for each in times),
            per_token=_spread(each.per_token for each in times),
            gap=Spread.of(gap for outcome in answered for gap in gaps(outcome)),
            total=Spread.of(each.total for each in times),
            lag=Spread.of(outcome.sent - outcome.due for outcome in outcomes),
            client_share=sum(load.client_share * load.seconds for load in loads) / seconds
            if seconds
            else 0.0,
            met=None if objective is None else sum(map(objective.is_met, outcomes)),
        )

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.statuses.values())

    @property
    def answered(self) -> int:
        """How many of them were answered to the end."""
        return self.statuses.get(OK, 0)

    @property
    def failed_share(self) -> float:
        """Requests that were not answered, of all; 1 where there were none."""
        return 1 - self.answered / self.requests if self.requests else 1.0

    def a_second(self, number: float) -> float:
        """So many in the whole load, as so many a second."""
        return number / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values; times in seconds."""
        spreads = ("first_token", "first_text", "per_token", "gap", "total", "lag")
        goodput = {}
        if self.met is not None:
            goodput = {"goodput_per_s": self.a_second(self.met), "goodput_share": self.met / self.requests}
        return {
            "statuses": dict(self.statuses),
            "messages": dict(self.messages),
            "seconds": self.seconds,
            "answers_per_s": self.a_second(self.answered),
            "tokens_per_s": self.a_second(self.answer_tokens),
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            **{f"{name}_s": getattr(self, name).as_json() for name in spreads},
            **goodput,
            "client_share": self.client_share,
        }


def _spread(values: Iterable[float | None]) -> Spread:
    return Spread.of(value for value in values if value is not None)


@dataclass(frozen=True, slots=True)
class Turns:
    """One figure of a load that was measured several times.

    Attributes:
        middle: the median of the turns.
        least: of the turns.
        most: of the turns.
    """

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Turns":
        """Summarizes the turns, one at least; those in which there was nothing to measure do not count."""
        measured = [value for value in values if not math.isnan(value)] or [math.nan]
        return cls(statistics.median(measured), min(measured), max(measured))
