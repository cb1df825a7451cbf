"""The figure that autoscalers follow, out of the real admission and the real registry."""

import contextlib
import math
import random
from contextlib import ExitStack

import pytest

from octet.config import ServerConfig
from octet.engine.types import ModelInfo
from octet.errors import OverloadedError
from octet.rpc.admission import retry
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.demand import MEAN_SECONDS, Demand
from octet.rpc.admission.limits import Limits, limits_of
from octet.rpc.admission.pace import MIN_SAMPLES, Pace
from octet.rpc.admission.ticket import Ticket
from octet.telemetry.admission import AdmissionMetrics
from octet.telemetry.metrics import Metrics
from tests.deploy_metrics import alerts
from tests.promql import selectors
from tests.unit.rpc.admission.clock import Clock

LIMITS = Limits(running=4, waiting=2, waiting_tokens=1000, waiting_images=8, token_calls=1, computed=4)


@pytest.fixture(autouse=True)
def no_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the refused are to wait is spread by lot; here it is the mean."""
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: (low + high) / 2)


class Server:
    """An admission, its metrics, and who is in it."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.clock = Clock()
        self.admission = Admission(limits, clock=self.clock)
        self._metrics = Metrics()
        AdmissionMetrics(self._metrics, self.admission)
        self._places: list[ExitStack] = []

    def enter(
        self,
        *,
        caller: str = "",
        request_id: str = "",
        sequences: int = 1,
        time_left: float | None = None,
        caller_limit: int | None = None,
    ) -> Ticket:
        place = ExitStack()
        ticket = place.enter_context(
            self.admission.enter(
                caller,
                Cost(sequences=sequences),
                request_id=request_id,
                time_left=time_left,
                caller_limit=caller_limit,
            )
        )
        self._places.append(place)
        return ticket

    def is_refused(
        self,
        *,
        caller: str = "",
        request_id: str = "",
        sequences: int = 1,
        time_left: float | None = None,
        caller_limit: int | None = None,
    ) -> OverloadedError:
        with pytest.raises(OverloadedError) as raised:
            self.enter(
                caller=caller,
                request_id=request_id,
                sequences=sequences,
                time_left=time_left,
                caller_limit=caller_limit,
            )
        return raised.value

    def leave_all(self) -> None:
        for place in self._places:
            place.close()
        self._places.clear()

    def fill(self, requests: int = 6) -> None:
        for _ in range(requests):
            self.enter()

    def learn(self, run_seconds: float) -> None:
        """Lets requests run for so long until there is evidence."""
        for _ in range(MIN_SAMPLES):
            self.enter()
            self.clock.now += run_seconds
            self.leave_all()

    @property
    def ratio(self) -> float:
        value = self._metrics.registry.get_sample_value("octet_demand_ratio")
        assert value is not None
        return value

    def now(self) -> float:
        """What the ratio would become if everything stayed as it is: what there is at the moment."""
        before = self.ratio
        self.clock.now += 1e-3
        weight = -math.expm1(-1e-3 / MEAN_SECONDS)
        return (self.ratio - before) / weight + before


def test_nothing_is_nothing() -> None:
    assert Server().ratio == 0
    assert Server(Limits(0, 0, 0, 0, 0)).ratio == 0, "before the model is there"


def test_what_runs_and_waits_counts_by_candidates() -> None:
    server = Server()
    server.enter(sequences=3)
    assert server.now() == pytest.approx(3 / 4)
    server.enter()
    server.enter(sequences=2)
    assert server.admission.load().waiting == 1
    assert server.now() == pytest.approx(6 / 4)
    server.leave_all()
    assert server.now() == pytest.approx(0)


def test_capacity_is_what_is_computed_at_once() -> None:
    server = Server(Limits(9, 2, 1000, 8, 1, computed=8))
    server.fill(9)
    assert server.now() == pytest.approx(9 / 8)


def test_without_a_number_of_computed_ones_it_is_what_may_run() -> None:
    server = Server(Limits(9, 2, 1000, 8, 1))
    server.fill(9)
    assert server.now() == pytest.approx(1)


def test_the_mean_is_exponential_and_exact() -> None:
    server = Server()
    server.fill(4)
    server.clock.now += MEAN_SECONDS
    assert server.ratio == pytest.approx(1 - 1 / math.e)
    server.leave_all()
    server.clock.now += 2 * MEAN_SECONDS
    assert server.ratio == pytest.approx((1 - 1 / math.e) / math.e**2)


def test_asking_changes_nothing() -> None:
    asked, other = Server(), Server()
    for server in (asked, other):
        server.fill()
        server.is_refused()
    for _ in range(100):
        asked.clock.now += 0.5
        _ = asked.ratio
    other.clock.now += 50
    assert asked.ratio == pytest.approx(other.ratio)


def test_a_refused_request_counts_until_it_was_told_to_come_again() -> None:
    server = Server()
    server.fill()
    error = server.is_refused()
    assert server.now() == pytest.approx(7 / 4)
    server.clock.now += error.retry_seconds - 0.01
    assert server.now() == pytest.approx(7 / 4)
    server.clock.now += 0.01
    assert server.now() == pytest.approx(6 / 4)


def test_who_comes_when_told_counts_once() -> None:
    """However often it is refused, with ids or without."""
    for request_id in ("", "r1"):
        server = Server()
        server.fill()
        for _ in range(5):
            error = server.is_refused(request_id=request_id)
            assert server.now() == pytest.approx(7 / 4)
            server.clock.now += error.retry_seconds


def test_who_comes_sooner_counts_once() -> None:
    server = Server()
    server.fill()
    for _ in range(5):
        server.is_refused(request_id="r1")
        assert server.now() == pytest.approx(7 / 4)
    server.is_refused(request_id="r2")
    assert server.now() == pytest.approx(8 / 4)


def test_ids_are_their_callers() -> None:
    clock = Clock()
    demand, pace = Demand(clock), Pace(clock)
    demand.open(LIMITS)
    for caller in ("one", "another", "one"):
        ticket = Ticket(caller, Cost(), clock.now, None, pace, request_id="r1")
        demand.come(ticket)
        demand.refuse(ticket, OverloadedError("FULL", "full", retry_seconds=10**6), None)
    clock.now += 1000 * MEAN_SECONDS
    assert demand.ratio() == pytest.approx(2 / 4)


def test_who_is_let_in_counts_no_more_as_refused() -> None:
    server = Server()
    server.fill()
    server.is_refused(request_id="r1")
    server.leave_all()
    assert server.now() == pytest.approx(1 / 4)
    server.enter(request_id="r1")
    assert server.now() == pytest.approx(1 / 4)
    server.clock.now += 60
    assert server.now() == pytest.approx(1 / 4), "its refusal's end takes nothing away"


def test_who_comes_sooner_counts_until_it_was_told_last() -> None:
    server = Server()
    server.fill()
    first = server.is_refused(request_id="r1")
    server.clock.now += first.retry_seconds / 2
    second = server.is_refused(request_id="r1")
    server.clock.now += second.retry_seconds - 0.01
    assert server.now() == pytest.approx(7 / 4)
    server.clock.now += 0.01
    assert server.now() == pytest.approx(6 / 4)


def test_nobody_wants_an_answer_after_the_deadline() -> None:
    server = Server()
    server.fill()
    server.is_refused(time_left=0.05)
    assert server.now() == pytest.approx(7 / 4)
    server.clock.now += 0.05
    assert server.now() == pytest.approx(6 / 4)


def test_who_must_not_come_again_counts_as_long_as_requests_run() -> None:
    server = Server()
    server.learn(run_seconds=10)
    server.fill()
    error = server.is_refused(time_left=4)
    assert error.reason == "DEADLINE_UNREACHABLE"
    assert not error.retryable
    before = server.now()
    server.clock.now += 3.9
    assert server.now() == pytest.approx(before)
    server.clock.now += 0.1
    assert server.now() == pytest.approx(before - 1 / 4), "its deadline, before the 10 s that requests run"


def test_who_has_to_make_room_is_refused() -> None:
    server = Server()
    for _ in range(6):
        server.enter(caller="much")
    server.enter(caller="little")
    assert server.admission.load().waiting == 2
    assert server.now() == pytest.approx(7 / 4)


def test_a_callers_own_limit_is_no_demand() -> None:
    server = Server()
    server.fill(1)
    assert server.is_refused(caller_limit=1).reason == "KEY_LIMIT_REACHED"
    assert server.now() == pytest.approx(1 / 4)


def test_calls_about_tokens_are_no_demand() -> None:
    server = Server()
    with (
        server.admission.enter_token_call("one"),
        pytest.raises(OverloadedError),
        server.admission.enter_token_call("one"),
    ):
        pass
    assert server.now() == pytest.approx(0)


def test_further_prompts_of_a_request_count_while_they_are_here() -> None:
    server = Server()
    with server.admission.enter("", Cost(), prompts=3) as first:
        with server.admission.enter_next(first, Cost()):
            assert server.now() == pytest.approx(2 / 4)
        assert server.now() == pytest.approx(1 / 4)
        server.admission.leave(first)
        assert server.now() == pytest.approx(0)
    assert server.now() == pytest.approx(0), "nobody leaves twice"


def test_the_alert_is_reached_before_anything_is_refused() -> None:
    """What waits is bounded by what runs: a threshold on the queue alone might never be."""
    model = ModelInfo(
        names=("m",),
        source="m",
        takes_images=False,
        context_window=1000,
        output_token_limit=1,
        quantization=None,
        active_kernels=(),
        max_images=0,
        tokens_per_image=0,
        vocabulary_size=1,
        max_sequences=16,
    )
    server = Server(limits_of(ServerConfig(), model))
    server.fill(18 + 4)
    server.is_refused()
    (rule,) = [rule for rule in alerts() if rule["alert"] == "OctetTooFewReplicas"]
    assert [name for name, _ in selectors(rule["expr"])] == ["octet_demand_ratio", "octet_serving"]
    threshold = float(rule["expr"].rpartition(">")[2])
    assert server.now() == pytest.approx(23 / 16)
    server.leave_all()
    server.fill(17)
    server.clock.now += 1000
    assert server.ratio > threshold


def test_it_rises_with_the_load_beyond_what_can_wait() -> None:
    """Ten times the load is no more in the queue than twice the load; the figure tells them apart."""
    twice, ten_times = Server(), Server()
    for server, refused in ((twice, 4), (ten_times, 40)):
        server.fill()
        for _ in range(refused):
            server.is_refused()
    assert twice.admission.load().waiting == ten_times.admission.load().waiting
    assert ten_times.now() > 4 * twice.now()


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_left_of_who_has_gone(seed: int) -> None:
    """Whoever came, waited, had to make room, came too late, came again or left, in whatever order."""
    lot, server = random.Random(seed), Server()
    places: list[ExitStack] = []
    for _ in range(200):
        server.clock.now += lot.choice([0.0, 0.01, 1.0, 20.0])
        if places and lot.random() < 0.4:
            places.pop(lot.randrange(len(places))).close()
            continue
        place = ExitStack()
        with contextlib.suppress(OverloadedError):
            place.enter_context(
                server.admission.enter(
                    lot.choice(["one", "another"]),
                    Cost(sequences=lot.choice([1, 1, 3]), priority=lot.choice([0, 0, 1])),
                    request_id=lot.choice(["", "r1", "r2"]),
                    time_left=lot.choice([None, 0.5, 5.0, 60.0]),
                    caller_limit=lot.choice([None, None, 3]),
                )
            )
            places.append(place)
        load = server.admission.load()
        assert server.now() >= (load.running_sequences + load.waiting) / 4 - 1e-6
    for place in places:
        place.close()
    server.clock.now += 1000 * MEAN_SECONDS
    assert server.ratio == pytest.approx(0, abs=1e-9)
