"""The set-up says in one line what is missing, and what it installs is pinned."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.requirements import requirements

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "tools" / "check_prerequisites.sh"


def check(python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CHECK, python], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_this_machine_has_all_that_is_needed() -> None:
    result = check(sys.executable)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_missing_python_is_one_line() -> None:
    result = check("python-that-is-not-there")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "there is no 'python-that-is-not-there'" in result.stderr


def test_python_too_old_is_one_line(tmp_path: Path) -> None:
    old = script(tmp_path / "python3.9", '[ "$1" = --version ] && echo "Python 3.9.1" && exit 0; exit 1')
    result = check(old)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "Python 3.9.1 is not supported" in result.stderr


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("compiler-that-is-not-there", "there is no C++ compiler 'compiler-that-is-not-there'"),
        ("false", "'false' does not compile C++20"),
    ],
)
def test_compiler_missing_or_too_old_is_one_line(compiler: str, said: str) -> None:
    result = check(sys.executable, CXX=compiler)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def pinned(engine: str) -> dict[str, set[str]]:
    """The versions that constraints/ allows for each package, over all Python versions and machines."""
    versions: dict[str, set[str]] = {}
    for line in (ROOT / "constraints" / f"{engine}.txt").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            versions.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return versions


@pytest.mark.parametrize(("engine", "groups"), [("cpu", ("cpu", "dev")), ("cuda", ("cuda",))])
def test_every_requirement_is_pinned_to_a_version_that_satisfies_it(
    engine: str, groups: tuple[str, ...]
) -> None:
    wanted = [line for group in ("build", "runtime", *groups) for line in requirements(group)]
    versions = pinned(engine)
    for text in wanted:
        requirement = Requirement(text)
        there = versions.get(canonicalize_name(requirement.name), set())
        assert there, f"{requirement.name} is not in constraints/{engine}.txt: run make lock"
        assert all(requirement.specifier.contains(version) for version in there), f"{text}: run make lock"


def test_a_group_that_is_not_there_is_one_line() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "requirements.py", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "no group 'nonsense'" in result.stderr


def check_constraints(file: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [ROOT / "tools" / "check_constraints.sh", Path(sys.executable).parent, file],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_constraints_that_nothing_satisfies_are_an_error(tmp_path: Path) -> None:
    """An index without a package: what is wanted cannot be had, and that is not the network's fault."""
    (tmp_path / "simple").mkdir()
    result = check_constraints(
        ROOT / "constraints" / "cuda.txt",
        UV_DEFAULT_INDEX=(tmp_path / "simple").as_uri(),
        UV_CACHE_DIR=str(tmp_path / "cache"),
        UV_FIND_LINKS="",
    )
    assert result.returncode == 1, result.stdout
    assert result.stderr.rstrip().endswith("constraints/cuda.txt cannot be installed; run make lock")


def test_an_index_that_cannot_be_reached_is_said_and_no_error(tmp_path: Path) -> None:
    result = check_constraints(
        ROOT / "constraints" / "cuda.txt",
        UV_DEFAULT_INDEX="http://127.0.0.1:9/simple",
        UV_HTTP_RETRIES="0",
        UV_CACHE_DIR=str(tmp_path),
        UV_FIND_LINKS="",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("was not resolved: the package index cannot be reached\n")


def test_cuda_is_pinned_as_its_torch_wants_it() -> None:
    """Once for every Python on Linux: torch, Triton, and a compiler of torch's CUDA, whose PTX its drivers
    take.
    """
    on_linux: dict[str, list[str]] = {}
    for line in (ROOT / "constraints" / "cuda.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        for python in ("3.11", "3.12", "3.13"):
            machine = {
                "python_version": python,
                "python_full_version": f"{python}.9",
                "sys_platform": "linux",
                "platform_machine": "x86_64",
                "platform_python_implementation": "CPython",
                "implementation_name": "cpython",
            }
            if requirement.marker is None or requirement.marker.evaluate(machine):
                on_linux.setdefault(canonicalize_name(requirement.name), []).append(
                    str(requirement.specifier)
                )
    for name in ("torch", "triton", "vllm", "nvidia-cuda-nvcc", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime"):
        assert len(on_linux[name]) == 3, name
        assert len(set(on_linux[name])) == 1, f"{name} differs between Pythons"
    minors = {
        on_linux[f"nvidia-{part}"][0].rpartition(".")[0]
        for part in ("cuda-nvcc", "cuda-crt", "cuda-cccl", "nvvm", "cuda-nvrtc", "cuda-runtime")
    }
    assert minors == {"==13.0"}
