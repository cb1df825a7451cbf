from types import SimpleNamespace
from typing import Any

import pytest

from octet.rpc.admission.listener import Load
from octet.telemetry.load_report import WINDOW_SECONDS, LoadReporter, OrcaLoadReport


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def load(running: int = 0, waiting: int = 0) -> Load:
    return Load(running, running, waiting, waiting_tokens=0, waiting_images=0, token_calls=0)


def reporter(held: Load, usage: float | None, clock: Clock | None = None) -> LoadReporter:
    made = LoadReporter(lambda: held, clock or Clock())
    engine: Any = SimpleNamespace(kv_cache_usage=lambda: usage, model=SimpleNamespace(max_sequences=4))
    made.attach(engine)
    return made


def report(made: LoadReporter) -> Any:
    return OrcaLoadReport.FromString(made.report())


def test_the_wire_format_is_xds_orcas() -> None:
    message = OrcaLoadReport(application_utilization=0.5, rps_fractional=2, named_metrics={"a": 1})
    # Tags: field 6 and 9 as 64-bit, field 8 length-delimited; doubles little-endian.
    assert message.SerializeToString(deterministic=True).hex() == (
        "31" "0000000000000040" "420c" "0a0161" "11" "000000000000f03f" "49" "000000000000e03f"
    )  # fmt: skip


def test_the_fullest_resource_is_the_utilization() -> None:
    assert report(reporter(load(running=1), 0.75)).application_utilization == 0.75
    assert report(reporter(load(running=2), 0.25)).application_utilization == 0.5
    assert report(reporter(load(running=4, waiting=2), 0.25)).application_utilization == 1.5


def test_queue_and_cache_are_named() -> None:
    said = report(reporter(load(running=2, waiting=1), 0.25))
    assert said.utilization == {"kv_cache": 0.25}
    assert said.named_metrics == {"running_requests": 2, "waiting_requests": 1, "kv_cache_utilization": 0.25}


def test_an_idle_engine_holds_nothing_whatever_it_last_said() -> None:
    assert report(reporter(load(), 0.75)).utilization == {"kv_cache": 0}


def test_the_call_itself_keeps_the_utilization_above_zero() -> None:
    assert report(reporter(load(), None)).application_utilization == 0.25


def test_an_unknown_cache_is_left_out() -> None:
    said = report(reporter(load(running=2), None))
    assert not said.utilization
    assert said.application_utilization == 0.5


def test_rates_are_of_the_last_seconds() -> None:
    clock = Clock()
    made = reporter(load(), None, clock)
    clock.now += 5
    for failed in (False, True, False, False, True):
        made.note_end(failed=failed)
    assert report(made).rps_fractional == pytest.approx(1)
    assert report(made).eps == pytest.approx(0.4)
    clock.now += WINDOW_SECONDS / 2
    assert report(made).rps_fractional == pytest.approx(0.5)
    clock.now += WINDOW_SECONDS
    assert report(made).rps_fractional == 0


@pytest.mark.parametrize("usage", [None, 0.0, 0.25])
@pytest.mark.parametrize("running", [0, 1])
@pytest.mark.parametrize("ended", [0, 1])
def test_base64_needs_no_padding(usage: float | None, running: int, ended: int) -> None:
    made = reporter(load(running), usage)
    for _ in range(ended):
        made.note_end(failed=False)
    assert len(made.report()) % 3 == 0
    assert report(made).named_metrics["running_requests"] == running
