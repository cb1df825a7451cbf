"""The load program counts right; what it measures is read by people."""

import math

import pytest

from bench.overload import make_requests, open_loop, summarize, table
from octet.bench.serving.octet_grpc import OctetTarget
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.play import OK, Outcome
from octet.bench.serving.target import Usage
from octet.config import ServerConfig
from octet.server.server import Server
from tests.integration.fake_engine import Endless, FakeEngine

ORDER = Order(0, Kind.TEXT, 8, 10)


def outcome(sent: float, total: float, status: str = OK) -> Outcome:
    """With its first token a tenth of a second after it was sent."""
    if status == OK:
        return Outcome(ORDER, sent, sent, sent + total, pieces=[sent + 0.1], usage=Usage(8, 10))
    return Outcome(ORDER, sent, sent, sent + total, status)


def test_what_is_generated_within_the_window_counts() -> None:
    ended_early, ended_late = outcome(0.0, 0.5), outcome(7.0, 2.0)
    within = [outcome(1.5, 1.0), outcome(3.0, 3.0)]
    refused = [outcome(float(second), 0.01, "RESOURCE_EXHAUSTED") for second in range(4)]
    load = summarize([ended_early, *within, ended_late, *refused], offered=2.0, seconds=8.0)
    assert load.requests_per_s == 1.0
    # Of two answers only a part: they come at an even pace after their first token, 0.1 s after being sent.
    parts = (8.0 - 7.1) / 1.9 + (2.5 - 2.0) / 0.9
    assert load.goodput_tokens_per_s == pytest.approx(10 * (1 + parts) / 6)
    assert load.codes == {"OK": 4, "RESOURCE_EXHAUSTED": 4}
    assert load.total_s == pytest.approx((2.0, 2.98))
    assert load.refusal_s == pytest.approx((0.01, 0.01))
    [first, *_] = table([load]).columns[0].cells
    assert first == "2x"


def test_nothing_answered_has_no_latency() -> None:
    load = summarize([outcome(1.0, 0.01, "UNAVAILABLE")], offered=1.0, seconds=4.0)
    assert load.goodput_tokens_per_s == 0
    assert all(math.isnan(seconds) for seconds in load.total_s)


async def test_every_arrival_is_accounted_for() -> None:
    """Twenty times what fits, of an engine that answers nobody until all have come."""
    script = Endless()
    server = Server(ServerConfig(port=0, max_running_requests=2, max_waiting_requests=3))
    await server.start()
    try:
        await server.attach(FakeEngine(script))

        class Listener:
            refused_ones = 0

            def admitted(self, caller: str, queue_seconds: float) -> None: ...

            def refused(self, caller: str, reason: str) -> None:
                self.refused_ones += 1
                if self.refused_ones == 20:
                    script.release.set()

        server.admission.subscribe(Listener())
        target = OctetTarget(f"127.0.0.1:{server.port}", timeout=60)
        outcomes = await open_loop(target, make_requests(target, 4), rate=1000.0, seconds=0.1)
        await target.close()
    finally:
        await server.stop()
    codes = [outcome.status for outcome in outcomes]
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert codes.count("OK") >= 5
    assert codes.count("RESOURCE_EXHAUSTED") >= 20
    assert all(outcome.usage == Usage(7, 2) for outcome in outcomes if outcome.status == OK)
    assert not any(outcome.pieces for outcome in outcomes if outcome.status != OK)
