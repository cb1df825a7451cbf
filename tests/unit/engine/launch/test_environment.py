"""What is set before vLLM and OpenMP are imported."""

import os

import pytest

from octet.engine.vllm.launch import environment

SPINS, WAITING = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


@pytest.mark.parametrize(
    ("cores", "given", "spins"),
    [
        (1, {}, "30000"),
        (2, {}, "30000"),
        (4, {}, "30000"),
        (5, {}, None),
        (64, {}, None),
        (2, {SPINS: "7"}, "7"),
        (2, {WAITING: "active"}, None),
    ],
)
def test_threads_that_compute_on_all_cores_soon_leave_them(
    monkeypatch: pytest.MonkeyPatch, cores: int, given: dict[str, str], spins: str | None
) -> None:
    for name in (SPINS, WAITING):
        # Set first, so that what `prepare` sets is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    environment.prepare()
    assert os.environ.get(SPINS) == spins
