"""Which kernels run, and how that is chosen."""

import logging
import os
import subprocess
import sys

import pytest

from octet import ops

PROBE = "import sys; from octet import ops; print(ops.isa()); print('vllm' in sys.modules)"


def probe(octet_isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OCTET_ISA"}
    if octet_isa is not None:
        environment["OCTET_ISA"] = octet_isa
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", PROBE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_scalar_kernels_run_everywhere() -> None:
    assert ops.available_isas()[0] == "scalar"


def test_the_fastest_kernels_are_the_default() -> None:
    result = probe(None)
    assert result.stdout.split() == [ops.available_isas()[-1], "False"], result.stderr


def test_octet_isa_forces_the_kernels() -> None:
    result = probe("scalar")
    assert result.stdout.split() == ["scalar", "False"], result.stderr


def test_octet_isa_that_is_not_available_is_an_error() -> None:
    result = probe("nonsense")
    assert result.returncode != 0
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line == (
        'ValueError: OCTET_ISA: this machine has no kernels named "nonsense"; it has '
        + ", ".join(ops.available_isas())
    )


def test_use_isa_switches() -> None:
    before = ops.isa()
    for name in ops.available_isas():
        ops.use_isa(name)
        assert ops.isa() == name
    ops.use_isa(before)


def test_use_isa_keeps_the_old_kernels_on_an_error() -> None:
    before = ops.isa()
    with pytest.raises(ValueError, match='no kernels named "neon"; it has scalar'):
        ops.use_isa("neon")
    assert ops.isa() == before


def test_what_is_refused_is_not_available() -> None:
    assert not set(ops.refused_isas()) & set(ops.available_isas())


def test_a_refusal_is_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ops.library.extension, "refused_isas", lambda: {"amx_bf16": "its products differ"})
    with caplog.at_level(logging.WARNING, logger="octet"):
        ops.library.log_refused_isas()
    (record,) = caplog.records
    assert record.getMessage() == (f"the amx_bf16 kernels are not used: its products differ; {ops.isa()} are")
