"""What one caller may have of the engine, and that another one finds a place there."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from octet.config import ServerConfig
from octet.errors import OverloadedError
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.limits import Limits, limits_of
from octet.rpc.admission.ticket import Ticket
from tests.unit.rpc.admission.test_admission import Door
from tests.unit.rpc.admission.test_cost import MODEL

LIMITS = Limits(
    running=9,
    waiting=2,
    waiting_tokens=1000,
    waiting_images=8,
    token_calls=2,
    running_per_caller=7,
    prompt_tokens=100,
)


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door(LIMITS)
    yield door
    door.leave_all()
    load = door.admission.load()
    assert (load.running, load.running_sequences, load.waiting, load.waiting_tokens) == (0, 0, 0, 0)


def prompt(tokens: int) -> Cost:
    return Cost(tokens=tokens, text_tokens=tokens)


def started(tickets: list[Ticket]) -> int:
    return sum(ticket.started is not None for ticket in tickets)


def test_a_caller_leaves_places_to_others(door: Door) -> None:
    greedy = [door.enter("greedy") for _ in range(9)]
    assert started(greedy) == 7
    other = [door.enter("other") for _ in range(2)]
    assert started(other) == 2
    door.leave(greedy[0])
    assert started(greedy[1:]) == 7


def test_candidates_count_and_too_many_run_alone(door: Door) -> None:
    first = door.enter("greedy", Cost(sequences=8))
    assert first.started is not None
    second = door.enter("greedy")
    assert second.started is None
    door.leave(first)
    assert second.started is not None


def test_prompts_of_a_caller_wait_until_its_earlier_ones_are_read(door: Door) -> None:
    greedy = [door.enter("greedy", prompt(40)) for _ in range(4)]
    assert started(greedy) == 2
    assert door.enter("other", prompt(40)).started is not None
    door.admission.first_token(greedy[0])
    assert started(greedy) == 3
    door.admission.first_token(greedy[0])
    assert started(greedy) == 3
    door.leave(greedy[1])
    assert started(greedy[2:]) == 2


def test_a_prompt_of_any_length_is_read_alone(door: Door) -> None:
    long = door.enter("greedy", prompt(5000))
    assert long.started is not None
    assert door.enter("greedy", prompt(1)).started is None
    assert door.enter("other", prompt(5000)).started is not None
    # Whatever tells nobody when its prompt is read is not waited for.
    assert door.enter("greedy", prompt(0)).started is None


def test_who_waits_for_his_own_prompts_is_not_refused_while_there_are_places(door: Door) -> None:
    """However many tokens these have: they would wait in the engine, if not here."""
    greedy = [door.enter("greedy", prompt(600)) for _ in range(9)]
    assert started(greedy) == 1
    with pytest.raises(OverloadedError, match="wait already"):
        door.enter("greedy", prompt(600))
    assert door.enter("other", prompt(1)).started is not None
    assert started(greedy) == 1


def test_the_rank_is_what_the_caller_had_before(door: Door) -> None:
    assert [door.enter("greedy").rank for _ in range(3)] == [0, 1, 2]
    assert door.enter("other").rank == 0


@pytest.mark.parametrize(
    ("settings", "most", "prompt_tokens"),
    [
        ({}, None, None),
        ({"api_key": "secret"}, None, None),
        ({"api_keys": "a aaaa\nb bbbb"}, 224, 512),
        ({"api_keys_file": "keys"}, 224, 512),
        ({"tls_certificate": "a", "tls_key": "b", "tls_client_ca": "c"}, 224, 512),
        ({"api_keys_file": "keys", "max_running_requests": 20}, 18, 512),
        ({"api_keys_file": "keys", "max_running_requests": 1}, 1, 512),
        ({"max_running_requests_per_key": 3}, 3, None),
    ],
)
def test_callers_that_are_told_apart_share(
    settings: dict[str, object], most: int | None, prompt_tokens: int | None
) -> None:
    config = ServerConfig(port=0, **settings)  # type: ignore[arg-type]
    limits = limits_of(config, replace(MODEL, max_sequences=256, step_tokens=512))
    assert (limits.running_per_caller, limits.prompt_tokens) == (most, prompt_tokens)
