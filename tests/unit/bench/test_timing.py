"""How functions take turns; nothing here depends on how fast anything is."""

from types import SimpleNamespace

import pytest

from octet.bench import timing
from octet.bench.timing import Timing


def test_quartiles() -> None:
    assert Timing.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Timing(median=3.0, q1=2.0, q3=4.0, samples=5)
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 1)


def test_functions_take_turns() -> None:
    calls: list[str] = []
    measured = timing.take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.001)
    assert measured["a"].samples >= 3
    assert measured["b"].samples >= 3
    # After both have been planned, runs of the one and of the other alternate.
    runs = [name for at, name in enumerate(calls) if at == 0 or calls[at - 1] != name]
    assert len(runs) > 4


def test_a_slow_function_gets_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps stands for a call that takes long."""
    now = 0.0
    calls = 0

    def slow() -> None:
        nonlocal now, calls
        now += 10.0
        calls += 1

    monkeypatch.setattr("octet.bench.timing.time", SimpleNamespace(perf_counter=lambda: now))
    measured = timing.take_turns({"slow": slow}, 0.001)
    assert calls == 1
    assert measured["slow"] == Timing(10.0, 10.0, 10.0, 1)


def test_what_is_queued_is_waited_for() -> None:
    events: list[str] = []
    timing.take_turns({"a": lambda: events.append("call")}, 0.0001, synchronize=lambda: events.append("wait"))
    assert events[0] == "wait"
    assert events[-1] == "wait"
