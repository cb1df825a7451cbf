"""The first run on a GPU, as far as it goes without one: what fails is told, and stops nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools.gpu import build, first_run, report
from tools.gpu.first_run import EXPERIMENTS, Part, Run

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "gpu" / "first_run.sh"


def run_script(out: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [SCRIPT, out],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_both_reports_say_so(tmp_path: Path) -> None:
    result = run_script(tmp_path, PYTHON=sys.executable)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    written = json.loads((tmp_path / "first_run.json").read_text())
    assert written["results"]["build"]["failed"] == "torch finds no GPU on this machine; see nvidia-smi"
    assert (tmp_path / "first_run.txt").read_text() == result.stdout
    assert "FAIL build" in result.stdout


def test_a_python_that_is_not_there_or_has_no_torch_is_one_line(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    for python, said in (("python-that-is-not-there", "there is no"), (str(bare), "has no torch")):
        result = run_script(tmp_path, PYTHON=python)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert said in result.stderr


def test_parts_that_fail_stop_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    programs = {
        "right": 'print(\'{"ok": true, "comparisons": 3}\')',
        "wrong": 'print(\'{"ok": false, "wrong": ["a case"]}\'); raise SystemExit(1)',
        "raises": "raise ValueError('something broke')",
        "sanitized": "print('{\"ok\": true}'); print('== ERROR SUMMARY: 2 errors'); raise SystemExit(7)",
        "last": "print('{\"ok\": true}')",
    }
    for name, program in programs.items():
        run.do(Part(name, ("-c", program), 60))
    run.do(Part("absent", ("-c", ""), 60, under=("/no/such/compute-sanitizer",)))
    run.do(Part("endless", ("-c", "import signal; signal.pause()"), 5.5))
    monkeypatch.setattr(first_run, "_WHOLE_S", 0.0)
    late = Run()
    late.do(Part("late", ("-c", ""), 60))
    failed = {name: result.get("failed") for name, result in (run.results | late.results).items()}
    assert [name for name, result in run.results.items() if result["ok"]] == ["right", "last"]
    assert failed["raises"] == "ValueError: something broke"
    assert failed["sanitized"] == "ERROR SUMMARY: 2 errors"
    assert "No such file" in str(failed["absent"])
    assert failed["endless"] == "it took longer than 6 s"
    assert failed["late"] == "there was no time left"
    page = report.page({"gpu": "none"}, run.results)
    assert "FAIL wrong" in page
    assert "1 wrong: a case" in page
    assert "3 comparisons" in page


def test_every_alternative_is_a_constant_with_an_experiment() -> None:
    tuning = (ROOT / "csrc" / "cuda" / "tuning.h").read_text()
    constants = dict(re.findall(r"#define (OCTET_TUNE_\w+) (\d+)", tuning))
    alternatives = dict(define.split("=") for define in EXPERIMENTS.values())
    assert alternatives.keys() == constants.keys()
    assert all(alternatives[name] != value for name, value in constants.items())
    readme = (ROOT / "csrc" / "cuda" / "README.md").read_text()
    for name, value in constants.items():
        assert re.search(rf"\| `{name}`: [^|]* \| {value}\b", readme), name
        assert re.search(rf"\| `{name}`: [^|]* \|[^|]*\| {alternatives[name]}\b", readme), name


def test_ratios_of_experiments_are_to_what_was_built() -> None:
    def measured(microseconds: float) -> dict[str, object]:
        row = {
            "case": "per_token_quant_fp8 1 x 3840",
            "microseconds": {"octet": microseconds, "copy": 1.0, "compiled": 3.0},
            "gb_per_s": 100.0,
            "share_of_copy": 0.5,
            "cold": False,
        }
        return {"ok": True, "results": [row, {"case": "another", "failed": "out of memory"}]}

    results = {"measure": measured(2.0), "as_built": measured(2.0), "block_threads_1024": measured(1.5)}
    page = report.page({}, results)
    assert re.search(r"block_threads_1024 +per_token_quant_fp8 1 x 3840 +0\.750", page)
    assert re.search(r"1 x 3840 +2\.00 +100 +50%  compiled 1\.50 \(partly in L2\)", page)
    assert re.search(r"another +failed: out of memory", page)


def test_nvcc_that_is_missing_or_too_old_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "nvcc"
    old.write_text("#!/bin/sh\necho release 12.4, V12.4.1\n")
    old.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(old))
    with pytest.raises(build.BuildError, match=r"nvcc is 12\.4, and 12\.8 or newer is needed"):
        build.find_nvcc()


@pytest.mark.skipif(not shutil.which("nvcc"), reason="there is no nvcc in the PATH")
@pytest.mark.parametrize("way", ["script", "link"])
def test_the_toolkit_is_where_nvcc_says(tmp_path: Path, way: str) -> None:
    real, path = shutil.which("nvcc"), tmp_path / "bin" / "nvcc"
    path.parent.mkdir()
    if way == "script":
        path.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
        path.chmod(0o755)
    else:
        path.symlink_to(Path(str(real)))
    assert (build.toolkit_of(path) / "include" / "cuda_runtime_api.h").exists()


def test_an_nvcc_that_does_not_tell_its_toolkit_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "nvcc"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    with pytest.raises(build.BuildError, match="does not say where its toolkit is"):
        build.toolkit_of(path)
