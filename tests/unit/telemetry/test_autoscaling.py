"""Replicas follow the load: Octet's admission in each, its figure, Kubernetes' algorithm, our manifest.

The clock is the simulation's; clients, as gRPC's with a retry policy, come again when they were told to, at
the next replica.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import yaml

from octet.errors import OverloadedError
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.ticket import Ticket
from octet.telemetry.admission import AdmissionMetrics
from octet.telemetry.metrics import Metrics
from tests.autoscaler import SYNC_SECONDS, Autoscaler, quantity
from tests.deploy_metrics import DEPLOY
from tests.unit.rpc.admission.clock import Clock

COMPUTED = 8
"""Sequences that a replica computes at once."""

RUN_SECONDS = 10.0
LOAD_SECONDS = 60.0
"""Until a new replica serves."""

DEADLINE_SECONDS = 120.0
MINUTE = 60.0


def manifest() -> dict[str, Any]:
    path = DEPLOY / "kubernetes" / "components" / "autoscaling" / "horizontalpodautoscaler.yaml"
    spec: dict[str, Any] = yaml.safe_load(path.read_text())["spec"]
    return spec


class Replica:
    """A pod: its admission, and what Prometheus reads of it."""

    def __init__(self, clock: Clock, ready: float) -> None:
        self.ready = ready
        running = COMPUTED + max(1, COMPUTED // 8)
        self.admission = Admission(
            Limits(running, max(1, running // 4), 10**6, 64, 64, computed=COMPUTED), clock=clock
        )
        self.waiting: deque[tuple[Ticket, ExitStack]] = deque()
        self._metrics = Metrics()
        AdmissionMetrics(self._metrics, self.admission)

    def metric(self, name: str) -> float:
        value = self._metrics.registry.get_sample_value(name)
        assert value is not None, name
        return value


class Cluster:
    """Replicas, their clients, and the autoscaler."""

    def __init__(self, spec: dict[str, Any], rate: Callable[[float], float]) -> None:
        self.clock = Clock()
        self._began = self.clock.now
        self._spec = spec
        (metric,) = spec["metrics"]
        self._metric = metric["pods"]["metric"]["name"]
        self._autoscaler = Autoscaler(spec)
        self._rate = rate
        self._lot = random.Random(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._turn = 0
        self.replicas = [Replica(self.clock, self.clock.now) for _ in range(spec["minReplicas"])]
        self.seen: list[tuple[float, int, float]] = []
        """Minutes, replicas, mean of what they said; a row for each look of the autoscaler's."""
        self.arrived: list[float] = []
        self.failed: list[float] = []

    @property
    def minutes(self) -> float:
        return (self.clock.now - self._began) / MINUTE

    def run(self, minutes: float) -> None:
        # How long the refused are to wait is by lot, too: the library's.
        state = random.getstate()
        random.seed(1)
        try:
            self._run(minutes)
        finally:
            random.setstate(state)

    def _run(self, minutes: float) -> None:
        self._arrive()
        self._look()
        while self._events and self._events[0][0] <= self._began + minutes * MINUTE:
            self.clock.now, _, happen = heapq.heappop(self._events)
            happen()

    def between(self, begin: float, end: float) -> list[tuple[int, float]]:
        """What was seen in those minutes."""
        return [(replicas, value) for at, replicas, value in self.seen if begin <= at < end]

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock.now + seconds, next(self._numbers), happen))

    def _arrive(self) -> None:
        self.arrived.append(self.minutes)
        self._ask(f"r{len(self.arrived)}", self.clock.now + DEADLINE_SECONDS)
        self._after(self._lot.expovariate(self._rate(self.minutes)), self._arrive)

    def _ask(self, request_id: str, deadline: float) -> None:
        """Asks the next replica, and again when told to, while there is time."""
        serving = [replica for replica in self.replicas if replica.ready <= self.clock.now]
        self._turn += 1
        replica = serving[self._turn % len(serving)]
        place = ExitStack()
        try:
            ticket = place.enter_context(
                replica.admission.enter(
                    "", Cost(), request_id=request_id, time_left=deadline - self.clock.now
                )
            )
        except OverloadedError as error:
            if not error.retryable or self.clock.now + error.retry_seconds >= deadline:
                self.failed.append(self.minutes)
                return
            self._after(error.retry_seconds, lambda: self._ask(request_id, deadline))
            return
        replica.waiting.append((ticket, place))
        self._start(replica)

    def _start(self, replica: Replica) -> None:
        """Lets those run whose turn has come."""
        for _ in range(len(replica.waiting)):
            ticket, place = replica.waiting.popleft()
            if ticket.refusal is not None:
                place.close()
                self.failed.append(self.minutes)
            elif ticket.started is None:
                replica.waiting.append((ticket, place))
            else:
                replica.admission.first_token(ticket)
                self._after(
                    self._lot.uniform(0.5, 1.5) * RUN_SECONDS, lambda place=place: self._end(replica, place)
                )

    def _end(self, replica: Replica, place: ExitStack) -> None:
        place.close()
        self._start(replica)

    def _look(self) -> None:
        values = [replica.metric(self._metric) for replica in self.replicas]
        self.seen.append((self.minutes, len(values), sum(values) / len(values)))
        wanted = self._autoscaler.replicas(self.clock.now, len(self.replicas), values)
        while len(self.replicas) < wanted:
            self.replicas.append(Replica(self.clock, self.clock.now + LOAD_SECONDS))
        # Those that go are drained: what they have still ends.
        del self.replicas[wanted:]
        self._after(SYNC_SECONDS, self._look)


def requests_a_second(replicas: float, spec: dict[str, Any]) -> float:
    """The load for which so many replicas are exactly enough: their mean is the target."""
    target = quantity(spec["metrics"][0]["pods"]["target"]["averageValue"])
    return replicas * target * COMPUTED / RUN_SECONDS


@pytest.fixture(scope="module")
def doubled() -> Cluster:
    """Seventy minutes: enough for two replicas, from minute 10 to 40 twice as much, then as before."""
    spec = manifest()
    low, high = requests_a_second(1.5, spec), requests_a_second(3.0, spec)
    cluster = Cluster(spec, lambda minute: high if 10 <= minute < 40 else low)
    cluster.run(70)
    return cluster


def test_they_stay_while_the_load_stays(doubled: Cluster) -> None:
    assert {replicas for replicas, _ in doubled.between(0, 10)} == {2}


def test_they_follow_when_the_load_doubles(doubled: Cluster) -> None:
    counts = [replicas for replicas, _ in doubled.between(20, 40)]
    assert min(counts) >= 3
    assert max(counts) <= 5, "they do not run away"
    target = quantity(manifest()["metrics"][0]["pods"]["target"]["averageValue"])
    means = [value for _, value in doubled.between(20, 40)]
    assert sum(means) / len(means) < target * 1.1


def test_few_wait_in_vain(doubled: Cluster) -> None:
    """Twice the load is more than two replicas can do, for as long as the others take to load."""
    late = [minute for minute in doubled.failed if minute >= 20]
    assert not late
    assert len(doubled.failed) < len(doubled.arrived) / 100


def test_they_shrink_again(doubled: Cluster) -> None:
    counts = [replicas for replicas, _ in doubled.between(40, 70)]
    assert counts == sorted(counts, reverse=True), "they go one after the other, and none comes back"
    assert counts[-1] == 2
    assert all(before - after <= 1 for before, after in itertools.pairwise(counts))


def test_four_times_the_load_is_answered_at_once_with_many() -> None:
    """The figure says how many are too few: it is not found out one replica at a time."""
    spec = manifest()
    low, high = requests_a_second(1.5, spec), requests_a_second(6.0, spec)
    cluster = Cluster(spec, lambda minute: high if minute >= 5 else low)
    cluster.run(10)
    assert max(value for _, value in cluster.between(5, 10)) > 1.4, "more than can run and wait"
    assert max(replicas for replicas, _ in cluster.between(5, 10)) >= 6


def test_the_number_that_waits_could_not_have_been_followed() -> None:
    """Why the autoscaler has a figure of its own: with four times the load no more wait than may."""
    spec = manifest() | {"metrics": [_waiting(4)]}
    high = requests_a_second(6.0, manifest())
    cluster = Cluster(spec, lambda minute: high)
    cluster.run(2)
    assert max(value for _, value in cluster.between(0, 2)) == 2, "a quarter of what runs"
    assert {replicas for replicas, _ in cluster.between(0, 2)} == {spec["minReplicas"]}


def _waiting(target: int) -> dict[str, Any]:
    return {
        "type": "Pods",
        "pods": {
            "metric": {"name": "octet_requests_waiting"},
            "target": {"type": "AverageValue", "averageValue": str(target)},
        },
    }
