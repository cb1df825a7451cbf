"""What a soak finds: anything that there is more of, and nothing else."""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from tests.soak.processes import Snapshot
from tests.soak.report import MIB, Report, grown, left_behind


def snapshot() -> Snapshot:
    """A server when it is warm."""
    return Snapshot(
        memory={"server": 600 * MIB, "core": 300 * MIB, "decoder": 30 * MIB, "fork server": 20 * MIB},
        processes=Counter({"server": 1, "core": 1, "decoder": 2}),
        threads=Counter({"server": 40, "core": 9, "decoder": 2}),
        descriptors={"server": Counter({"socket:": 12, "pipe:": 8}), "core": Counter({"/dev/null": 2})},
        tasks=Counter({"serve": 3}),
        shared={"octet-engine-a-1"},
        files={"octet-engine-a/socket"},
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda s: s.processes.update({"core": 1}), "processes like core: 2, 1 when warm"),
        (lambda s: s.processes.update({"sleep": 1}), "processes like sleep: 1, 0 when warm"),
        (lambda s: s.processes.update({"decoder": 2}), "processes like decoder: 4, 2 when warm"),
        (lambda s: s.threads.update({"server": 9}), "server has 49 threads"),
        (lambda s: s.threads.update({"core": 1}), "core has 10 threads"),
        (lambda s: s.descriptors["core"].update({"socket:": 1}), "core has more open"),
        (lambda s: s.descriptors["server"].update({"socket:": 30}), "server has more open"),
        (lambda s: s.tasks.update({"handle": 1}), "tasks that were not there when warm: {'handle': 1}"),
        (lambda s: s.shared.add("psm_1"), "more in shared memory than when warm: ['psm_1']"),
        (lambda s: s.files.add("octet-engine-a/other"), "more in its folder than when warm"),
        (lambda s: s.memory.update({"server": 613 * MIB}), "server has grown from 600.0 to 613.0 MiB"),
        (lambda s: s.memory.update({"fork server": 25 * MIB}), "fork server has grown"),
    ],
)
def test_what_is_found(change: Callable[[Snapshot], object], found: str) -> None:
    end = snapshot()
    change(end)
    report = Report(60, 1, Counter({"OK": 1}))
    report.compare(snapshot(), end)
    [finding] = report.findings
    assert finding.startswith(found)
    assert f"FOUND {finding}" in list(report.lines())
    assert json.loads(json.dumps(report.as_json()))["ended"] == {"OK": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: None,
        lambda s: s.processes.update({"decoder": 1}),
        lambda s: s.threads.update({"decoder": 7, "server": 8}),
        lambda s: s.memory.update({"decoder": 90 * MIB}),
        lambda s: s.memory.update({"server": 611 * MIB, "fork server": 23 * MIB}),
        lambda s: s.descriptors["server"].update({"socket:": 1, "pipe:": 2}),
        lambda s: s.tasks.clear(),
        lambda s: s.files.clear(),
    ],
)
def test_what_is_not(change: Callable[[Snapshot], object]) -> None:
    end = snapshot()
    change(end)
    assert [*left_behind(snapshot(), end), *grown(snapshot(), end)] == []
