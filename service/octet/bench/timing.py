"""Times functions against one another, in turns: what disturbs the machine disturbs all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# A sample lasts at least this long: a call of a few microseconds is repeated within it.
_LEAST_SAMPLE_S = 200e-6
_MOST_SAMPLES = 200
# A call that takes longer than this is measured once, without a call to warm up before it.
_SLOW_S = 2.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a call took.

    Attributes:
        median: of the samples.
        q1: their first quartile.
        q3: their third.
        samples: how many there were.
    """

    median: float
    q1: float
    q3: float
    samples: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        """Summarizes samples; there must be one at least."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0], 1)
        q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, q1, q3, len(seconds))

    def as_json(self) -> dict[str, float]:
        """The same as JSON values, in seconds."""
        return {"median_s": self.median, "q1_s": self.q1, "q3_s": self.q3, "samples": self.samples}


def take_turns(
    functions: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    synchronize: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Measures every function for about `seconds`, one sample of each after the other.

    Args:
        functions: what to call, by name.
        seconds: for each function; one that is slower gets a single sample.
        synchronize: waits for what a call has only queued, on a GPU.
    """
    wait = synchronize or (lambda: None)
    plans = {name: _plan(function, seconds, wait) for name, function in functions.items()}
    rounds = max(plan.samples for plan in plans.values())
    measured: dict[str, list[float]] = {name: list(plan.first) for name, plan in plans.items()}
    for turn in range(rounds):
        for name, plan in plans.items():
            # Spread over all rounds, also where a function gets fewer samples than there are rounds.
            if turn * plan.samples // rounds != (turn + 1) * plan.samples // rounds:
                measured[name].append(_sample(functions[name], plan.calls, wait))
    return {name: Timing.of(samples) for name, samples in measured.items()}


@dataclass(frozen=True, slots=True)
class _Plan:
    """How often to sample a function, with how many calls a sample, and samples that it has already."""

    samples: int
    calls: int
    first: tuple[float, ...] = ()


def _plan(function: Callable[[], object], seconds: float, wait: Callable[[], None]) -> _Plan:
    first = _sample(function, 1, wait)
    if first > _SLOW_S:
        return _Plan(0, 1, (first,))
    warm = _sample(function, 1, wait)
    calls = max(1, int(_LEAST_SAMPLE_S / max(warm, 1e-9)))
    return _Plan(min(_MOST_SAMPLES, max(3, int(seconds / (warm * calls)))), calls)


def _sample(function: Callable[[], object], calls: int, wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    wait()
    return (time.perf_counter() - start) / calls
