"""Percentiles, times, goodput, spread: the arithmetic of reports."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from octet.bench.serving.figures import Figures, Objective, Spread, Times, Turns, gaps, percentile
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.play import OK, Load, Outcome
from octet.bench.serving.target import Usage

SECONDS = st.floats(0, 1000, allow_subnormal=False)
VALUES = st.lists(SECONDS, min_size=1, max_size=50)
ORDER = Order(0, Kind.TEXT, 8, 8)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """One that can happen: nothing comes before what it follows."""
    due, lag, first, wait = (draw(st.floats(0, 10)) for _ in range(4))
    sent = due + lag
    steps = draw(st.lists(st.floats(0, 3), max_size=8))
    pieces = [sent + first + sum(steps[:number]) for number in range(len(steps))]
    ended = (pieces[-1] if pieces else sent) + wait
    if draw(st.booleans()):
        shown = draw(st.sampled_from([None, *pieces]))
        return Outcome(
            ORDER, due, sent, ended, OK, "", pieces, shown, Usage(8, draw(st.integers(len(pieces), 20)))
        )
    status = draw(st.sampled_from(["UNAVAILABLE", "HTTP 500"]))
    return Outcome(ORDER, due, sent, ended, status, f"why {status}", pieces)


@given(VALUES, st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    ours = percentile(sorted(values), percent)
    assert ours == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-9)
    assert min(values) <= ours <= max(values) or ours == pytest.approx(max(values))


@given(VALUES)
def test_a_spread_is_in_order(values: list[float]) -> None:
    spread = Spread.of(values)
    p50, p90, p99 = (spread.percentiles[percent] for percent in (50, 90, 99))
    slack = 1e-9 * max(values) + 1e-12
    assert min(values) - slack <= p50 <= p90 + slack <= p99 + 2 * slack <= spread.most + 3 * slack
    assert p50 == pytest.approx(statistics.median(values))
    assert spread.mean == pytest.approx(statistics.fmean(values))
    assert spread.count == len(values)


def test_a_spread_of_nothing() -> None:
    spread = Spread.of([])
    assert spread.as_json() == {"count": 0}
    assert all(math.isnan(value) for value in (spread.mean, spread.most, *spread.percentiles.values()))


def answer(
    *pieces: float, due: float = 0.0, shown: float | None = None, tokens: int | None = None
) -> Outcome:
    return Outcome(ORDER, due, due, pieces[-1], OK, "", list(pieces), shown, Usage(8, tokens or len(pieces)))


def test_times_count_from_when_it_was_due() -> None:
    outcome = answer(2.0, 2.5, 4.0, due=1.0, shown=2.5, tokens=5)
    outcome.sent, outcome.ended = 1.75, 4.5
    assert Times.of(outcome) == Times(
        first_token=1.0, first_text=1.5, per_token=0.5, longest_gap=1.5, total=3.5
    )
    assert gaps(outcome) == [0.5, 1.5]


def test_times_of_one_token_and_of_none() -> None:
    assert Times.of(answer(2.0, shown=2.0)) == Times(2.0, 2.0, None, None, 2.0)
    nothing = Outcome(ORDER, 0, 0, 3.0, usage=Usage(8, 1))
    assert Times.of(nothing) == Times(None, None, None, None, 3.0)


@given(st.lists(outcomes(), max_size=12), SECONDS)
def test_figures_account_for_every_request(played: list[Outcome], limit: float) -> None:
    assume(limit > 0)
    objective = Objective({"ttft": limit})
    seconds = max((outcome.ended for outcome in played), default=0.0)
    figures = Figures.of([Load(played, seconds, 0.5)], objective)
    answered = [outcome for outcome in played if outcome.status == OK]
    assert figures.requests == len(played)
    assert figures.answered == len(answered)
    assert sum(figures.statuses.values()) == len(played)
    assert figures.messages.keys() == figures.statuses.keys() - {OK}
    assert figures.answer_tokens == sum(o.usage.answer_tokens for o in answered if o.usage)
    assert figures.first_token.count == sum(bool(o.pieces) for o in answered)
    assert figures.gap.count == sum(max(0, len(o.pieces) - 1) for o in answered)
    assert figures.lag.count == len(played)
    assert figures.met is not None
    assert 0 <= figures.met <= figures.answered
    if played:
        assert figures.failed_share == pytest.approx(1 - len(answered) / len(played))
        assert figures.as_json()["goodput_share"] == figures.met / len(played)


@given(st.lists(outcomes(), min_size=1, max_size=12), st.integers(1, 11))
def test_loads_are_put_together(played: list[Outcome], cut: int) -> None:
    """Two loads one after the other are as many requests, in as long as both took."""
    parts = [part for part in (played[:cut], played[cut:]) if part]
    both = Figures.of([Load(part, 2.0, 0.25) for part in parts])
    whole = Figures.of([Load(played, 2.0 * len(parts), 0.25)])
    assert both == whole


@given(outcomes(), st.sampled_from(["ttft", "text", "tpot", "gap", "total"]), SECONDS, SECONDS)
def test_goodput_only_shrinks_with_its_limits(outcome: Outcome, name: str, one: float, other: float) -> None:
    strict, lax = sorted((one, other))
    if Objective({name: strict}).is_met(outcome):
        assert Objective({name: lax}).is_met(outcome)
        assert outcome.status == OK
    both = Objective({name: lax, "total": strict} if name != "total" else {name: strict})
    assert both.is_met(outcome) <= Objective({"total": strict}).is_met(outcome)


@given(outcomes())
def test_what_is_measured_is_met(outcome: Outcome) -> None:
    times = Times.of(outcome)
    for name, value in (
        ("ttft", times.first_token),
        ("text", times.first_text),
        ("tpot", times.per_token),
        ("gap", times.longest_gap),
        ("total", times.total),
    ):
        # A single token has no gap, which keeps every limit; no token at all keeps none.
        expected = outcome.status == OK and (value is not None or name in ("tpot", "gap"))
        assert Objective({name: value or 0.0}).is_met(outcome) is expected
        if value:
            assert not Objective({name: value * 0.99}).is_met(outcome)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("ttft=200ms,tpot=50ms", {"ttft": 0.2, "tpot": 0.05}),
        ("text=1.5s", {"text": 1.5}),
        ("gap=900us, total=1s", {"gap": 0.0009, "total": 1.0}),
    ],
)
def test_objectives_are_read(text: str, limits: dict[str, float]) -> None:
    assert Objective.parse(text).limits == pytest.approx(limits)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "NAME one of ttft, text, tpot, gap, total"),
        ("itl=5ms", "'itl=5ms': give NAME=TIME"),
        ("ttft", "'' is no time such as 200ms"),
        ("ttft=5", "'5' is no time"),
        ("ttft=5m", "'5m' is no time"),
        ("ttft=ms", "'ms' is no time"),
        ("ttft=0ms", "'0ms' is not more than 0"),
        ("ttft=-1s", "'-1s' is not more than 0"),
        ("ttft=nans", "'nans' is not more than 0"),
        ("ttft=infs", "'infs' is not more than 0"),
        ("ttft=1s,ttft=2s", "ttft has two limits"),
    ],
)
def test_what_is_no_objective(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        Objective.parse(text)
    assert sentence in str(error.value)


@given(VALUES)
def test_turns(values: list[float]) -> None:
    over = Turns.of([*values, math.nan])
    assert over == Turns(statistics.median(values), min(values), max(values))


def test_turns_in_which_nothing_was_measured() -> None:
    over = Turns.of([math.nan])
    assert math.isnan(over.middle)
