"""How CUDA kernels are launched, with a stand-in for CUDA's runtime; and the switch for their overlap."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.cuda_toolkit import compile_for_host

PROBE = (
    "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); "
    "print(*(library.launch_overlaps(major) for major in (8, 9, 10, 11, 12)))"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("stream_launcher.cpp")
    return compile_for_host([source], tmp_path_factory.mktemp("launch") / "launcher.so")


def run(command: list[str], setting: str | None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "OCTET_PDL"}
    if setting is not None:
        environment["OCTET_PDL"] = setting
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("setting", "overlaps"), [(None, "0 1 1 1 1"), ("on", "0 1 1 1 1"), ("off", "0 0 0 0 0")]
)
def test_launches_overlap_from_hopper_on_unless_switched_off(
    library: Path, setting: str | None, overlaps: str
) -> None:
    result = run([PROBE, str(library)], setting)
    assert result.stdout.strip() == overlaps, result.stderr


@pytest.mark.parametrize("setting", ["", "0", "OFF", "false"])
def test_any_other_value_of_the_switch_is_an_error(setting: str) -> None:
    result = run(["import octet.ops"], setting)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last == f"ValueError: OCTET_PDL={setting!r} is neither 'on' nor 'off'"


def test_more_shared_memory_than_every_kernel_gets_is_asked_for(library: Path) -> None:
    program = (
        "import ctypes, sys; ask = ctypes.CDLL(sys.argv[1]).shared_memory_asked_for; "
        "print(ask(48 << 10, 99 << 10), ask(64 << 10, 99 << 10), ask(128 << 10, 99 << 10))"
    )
    result = run([program, str(library)], None)
    assert result.stdout.split() == ["0", str(64 << 10), "-1"], result.stderr
