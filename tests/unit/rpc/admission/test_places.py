"""What one caller may have of the engine, and that another one finds a place there."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from octet.config import ServerConfig
from octet.engine.types import ModelInfo
from octet.errors import OverloadedError
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.limits import Limits, limits_of
from octet.rpc.admission.ticket import Ticket

LIMITS = Limits(
    running=9,
    waiting=2,
    waiting_tokens=1000,
    waiting_images=8,
    token_calls=2,
    running_per_caller=7,
    prompt_tokens=100,
)


class Door:
    """An admission, and everybody who has entered and not left."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.admission = Admission(limits)
        self.places: dict[Ticket, ExitStack] = {}

    def enter(self, caller: str, tokens: int = 0, sequences: int = 1) -> Ticket:
        place = ExitStack()
        cost = Cost(sequences=sequences, tokens=tokens, text_tokens=tokens)
        ticket = place.enter_context(self.admission.enter(caller, cost))
        self.places[ticket] = place
        return ticket

    def leave(self, ticket: Ticket) -> None:
        self.places.pop(ticket).close()


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    for ticket in list(door.places):
        door.leave(ticket)
    load = door.admission.load()
    assert (load.running, load.running_sequences, load.waiting, load.waiting_tokens) == (0, 0, 0, 0)


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
    first = door.enter("greedy", sequences=8)
    assert first.started is not None
    assert door.enter("greedy").started is None
    door.leave(first)
    assert started(list(door.places)) == 1


def test_prompts_of_a_caller_wait_until_its_earlier_ones_are_read(door: Door) -> None:
    greedy = [door.enter("greedy", tokens=40) for _ in range(4)]
    assert started(greedy) == 2
    assert door.enter("other", tokens=40).started is not None
    door.admission.first_token(greedy[0])
    assert started(greedy) == 3
    door.admission.first_token(greedy[0])
    assert started(greedy) == 3
    door.leave(greedy[1])
    assert started(greedy[2:]) == 2


def test_a_prompt_of_any_length_is_read_alone(door: Door) -> None:
    long = door.enter("greedy", tokens=5000)
    assert long.started is not None
    assert door.enter("greedy", tokens=1).started is None
    assert door.enter("other", tokens=5000).started is not None
    # Whatever tells nobody when its prompt is read is not waited for.
    assert door.enter("greedy", tokens=0).started is None


def test_who_waits_for_his_own_prompts_is_not_refused_while_there_are_places(door: Door) -> None:
    """However many tokens these have: they would wait in the engine, if not here."""
    greedy = [door.enter("greedy", tokens=600) for _ in range(9)]
    assert started(greedy) == 1
    with pytest.raises(OverloadedError, match="wait already"):
        door.enter("greedy", tokens=600)
    assert door.enter("other", tokens=1).started is not None
    assert started(greedy) == 1


def test_the_rank_is_what_the_caller_had_before(door: Door) -> None:
    assert [door.enter("greedy").rank for _ in range(3)] == [0, 1, 2]
    assert door.enter("other").rank == 0


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, None),
        ({"api_key": "secret"}, None),
        ({"api_keys": "a aaaa\nb bbbb"}, 224),
        ({"api_keys_file": "keys"}, 224),
        ({"tls_certificate": "a", "tls_key": "b", "tls_client_ca": "c"}, 224),
        ({"api_keys_file": "keys", "max_running_requests": 20}, 18),
        ({"api_keys_file": "keys", "max_running_requests": 1}, 1),
        ({"max_running_requests_per_key": 3}, 3),
    ],
)
def test_callers_that_are_told_apart_share(
    model: ModelInfo, settings: dict[str, object], most: int | None
) -> None:
    config = ServerConfig(port=0, **settings)  # type: ignore[arg-type]
    limits = limits_of(config, replace(model, max_sequences=256, step_tokens=512))
    assert (limits.running_per_caller, limits.prompt_tokens) == (most, 512)


@pytest.fixture
def model() -> ModelInfo:
    return ModelInfo(
        names=("m",),
        source="m",
        takes_images=False,
        context_window=2048,
        output_token_limit=2048,
        quantization=None,
        active_kernels=(),
        max_images=0,
        tokens_per_image=0,
        vocabulary_size=100,
    )
