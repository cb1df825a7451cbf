"""`make soak`, short: a real server under a mix of everything, and what stays behind of it."""

from pathlib import Path

import pytest

from tests.soak import run

SECONDS = 45.0


@pytest.mark.timeout(600)
def test_nothing_stays_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Sockets lie in it.
    folder: Path = tmp_path_factory.mktemp("s")
    with run.serving(folder) as server:
        report = run.soak(server, SECONDS, seed=1)
        report.findings += run.stop(server)
    print("\n".join(report.lines()))
    assert report.findings == []
    assert report.calls > 100
    assert {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "left"} <= report.ended.keys()
