"""What is evidence, and what it says."""

import pytest

from octet.rpc.admission.pace import MAX_AGE_SECONDS, MIN_SAMPLES, Pace
from tests.unit.rpc.admission.clock import Clock


def test_too_few_samples_are_no_evidence() -> None:
    pace = Pace(Clock())
    for _ in range(MIN_SAMPLES - 1):
        pace.note_run(2.0)
        pace.note_first_token(0.5)
    assert pace.run_seconds() is None
    assert pace.first_token_seconds() is None
    pace.note_run(2.0)
    pace.note_first_token(0.5)
    assert pace.run_seconds() == pytest.approx(2.0)
    assert pace.first_token_seconds() == 0.5


def test_the_mean_follows_and_the_least_stays() -> None:
    pace = Pace(Clock())
    for seconds in (1.0, 3.0) * MIN_SAMPLES:
        pace.note_run(seconds)
        pace.note_first_token(seconds)
    assert pace.run_seconds() == pytest.approx(2.0, rel=0.1)
    assert pace.first_token_seconds() == 1.0
    for _ in range(100):
        pace.note_run(10.0)
    assert pace.run_seconds() == pytest.approx(10.0, rel=0.01)


def test_old_samples_are_no_evidence() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(MIN_SAMPLES):
        pace.note_run(9.0)
        pace.note_first_token(9.0)
    clock.now += MAX_AGE_SECONDS + 1
    assert pace.run_seconds() is None
    assert pace.first_token_seconds() is None
    for _ in range(MIN_SAMPLES):
        assert pace.run_seconds() is None
        pace.note_run(1.0)
        pace.note_first_token(1.0)
    assert pace.run_seconds() == pytest.approx(1.0)
    assert pace.first_token_seconds() == 1.0
