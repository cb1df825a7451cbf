"""How much of prompts steps may compute, on machines and with models of all speeds."""

import pytest

from octet.engine.vllm.inside.pacing.pace import (
    ALONE_SECONDS,
    ANSWERS_TIMES,
    LEAST_TIMES,
    STEP_SECONDS,
    Pace,
)


def learnt(answers: float, token: float, steps: int = 200) -> Pace:
    """A pace that has seen steps of answers that take so long, and as much for each token of a prompt."""
    pace = Pace()
    for _ in range(steps):
        tokens = pace.tokens(answering=True)
        pace.measured(answers + tokens * token, prompt_tokens=tokens, answering=True)
    return pace


def next_tokens(pace: Pace) -> int:
    """What the next step with prompts may compute."""
    return pace.tokens(answering=True) or _after_a_look(pace)


def _after_a_look(pace: Pace) -> int:
    pace.measured(pace._answers_seconds or 0.0, prompt_tokens=0, answering=True)
    return pace.tokens(answering=True)


@pytest.mark.parametrize("answers", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("token", [1e-6, 1e-5])
def test_answers_are_held_up_by_little(answers: float, token: float) -> None:
    tokens = next_tokens(learnt(answers, token))
    assert answers + tokens * token == pytest.approx(ANSWERS_TIMES * answers, rel=0.05)


@pytest.mark.parametrize("answers", [0.12, 0.15])
def test_a_step_takes_a_quarter_of_a_second(answers: float) -> None:
    tokens = next_tokens(learnt(answers, 1e-4))
    assert answers + tokens * 1e-4 == pytest.approx(STEP_SECONDS, rel=0.05)


def test_prompts_get_on_where_answers_alone_take_longer() -> None:
    tokens = next_tokens(learnt(1.0, 1e-3))
    assert 1.0 + tokens * 1e-3 == pytest.approx(LEAST_TIMES, rel=0.05)


def test_nobody_who_streams_is_held_up_where_nobody_does() -> None:
    pace = learnt(0.01, 1e-4)
    assert pace.tokens(answering=False) == pytest.approx(ALONE_SECONDS / 1e-4, rel=0.05)
    assert learnt(0.01, 1.0).tokens(answering=False) == 256


def test_some_tokens_are_computed_however_long_each_takes() -> None:
    assert 0 < next_tokens(learnt(0.01, 1.0)) <= 32


def test_what_answers_take_is_looked_at_again() -> None:
    """With prompts in every step nobody would notice that there are more answers now, or fewer."""
    pace = learnt(0.01, 1e-5)
    few = next_tokens(pace)
    for _ in range(400):
        tokens = pace.tokens(answering=True)
        pace.measured(0.04 + tokens * 1e-5, prompt_tokens=tokens, answering=True)
    assert next_tokens(pace) == pytest.approx(4 * few, rel=0.1)


def test_before_anything_is_known_it_is_careful() -> None:
    pace = Pace()
    assert pace.tokens(answering=False) == 256
    assert pace.tokens(answering=True) == 0
    pace.measured(0.01, prompt_tokens=0, answering=True)
    assert pace.tokens(answering=True) == 256


def test_few_tokens_say_nothing_of_what_many_take() -> None:
    pace = learnt(0.01, 1e-5)
    before = next_tokens(pace)
    pace.measured(0.02, prompt_tokens=2, answering=True)
    assert next_tokens(pace) == before


def test_what_is_not_of_prompts_has_the_same_time() -> None:
    pace = learnt(0.01, 1e-4)
    assert pace.spare_seconds(answering=True) == pytest.approx((ANSWERS_TIMES - 1) * 0.01, rel=0.05)
    assert pace.spare_seconds(answering=False) == ALONE_SECONDS
    assert Pace().spare_seconds(answering=True) == ALONE_SECONDS, "nothing is known yet"
