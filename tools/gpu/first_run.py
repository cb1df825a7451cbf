"""Runs the parts of a first run on a GPU, one after the other, each in a process of its own; see
first_run.sh.

Usage: python -m tools.gpu.first_run OUT_DIR
"""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.gpu import build, report

_WHOLE_S = 460.0
"""The whole run, less what starting and ending it takes."""

EXPERIMENTS = {
    "blocks_per_sm_3": "OCTET_TUNE_BLOCKS_PER_SM=3",
    "block_threads_1024": "OCTET_TUNE_BLOCK_THREADS=1024",
    "warp_chunks_1": "OCTET_TUNE_WARP_CHUNKS=1",
}
"""Alternatives to the constants of csrc/cuda/tuning.h."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run.

    Attributes:
        name: in the report.
        command: words after `python`.
        seconds: it may take.
        under: the command that Python is run by, if not directly.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    under: tuple[str, ...] = ()


class Run:
    """The results so far, and the time that is left."""

    def __init__(self) -> None:
        self._ends = time.monotonic() + _WHOLE_S
        self.results: dict[str, Any] = {}

    def left(self) -> float:
        """Seconds until the whole run is to end."""
        return max(self._ends - time.monotonic(), 0.0)

    def do(self, part: Part) -> None:
        """Runs a part; whatever goes wrong becomes its result."""
        limit = min(part.seconds, self.left())
        if limit < 5:
            self.results[part.name] = {"ok": False, "failed": "there was no time left"}
            return
        print(f"first_run: {part.name}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        result = _result_of([*part.under, sys.executable, *part.command], limit)
        self.results[part.name] = result | {"seconds": round(time.monotonic() - begun, 1)}


def _result_of(command: list[str], limit: float) -> dict[str, Any]:
    # Sanitizers watch what torch's caching allocator would hand out in pieces of one large block.
    environment = os.environ | ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if "sanitizer" in command[0] else {})
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "failed": f"it took longer than {limit:.0f} s"}
    except OSError as error:
        return {"ok": False, "failed": str(error)}
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    said = (ended.stderr + ended.stdout).strip().splitlines()
    if not lines:
        return {"ok": False, "failed": said[-1] if said else f"exit status {ended.returncode}"}
    result: dict[str, Any] = json.loads(lines[-1])
    if ended.returncode != 0 and result.get("ok"):
        # What a sanitizer found.
        found = [line.strip("= ") for line in said if "ERROR SUMMARY" in line or "hazard" in line.lower()]
        result |= {"ok": False, "failed": (found or said)[-1]}
    return result


def main(out: Path) -> int:
    """Runs everything, writes the reports, and returns the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    run = Run()
    machine = _machine()
    try:
        machine["arch"] = build.architecture()
        nvcc, version = build.find_nvcc()
        machine["nvcc"] = f"{version[0]}.{version[1]}"
        begun = time.monotonic()
        print("first_run: build", file=sys.stderr, flush=True)
        library = str(build.build(out / "main", machine["arch"]))
        run.results["build"] = {"ok": True, "seconds": round(time.monotonic() - begun, 1)}
    except build.BuildError as error:
        run.results["build"] = {"ok": False, "failed": str(error)}
        return report.write(out, machine, run.results)
    pool = ThreadPoolExecutor(1)
    variants = {
        name: pool.submit(build.build, out / name, machine["arch"], (define,))
        for name, define in EXPERIMENTS.items()
    }
    for part in _checks(library, nvcc):
        run.do(part)
    run.do(Part("measure", ("-m", "tools.gpu.measure", library, "110"), 140))
    _experiment(run, library, variants)
    pool.shutdown(wait=True, cancel_futures=True)
    return report.write(out, machine, run.results)


def _checks(library: str, nvcc: Path) -> list[Part]:
    sanitizer = shutil.which("compute-sanitizer") or str(nvcc.parent / "compute-sanitizer")
    small = ("-m", "tools.gpu.check_oracle", library, "--small")
    parts = [
        Part("oracle", ("-m", "tools.gpu.check_oracle", library), 90),
        Part("graphs", ("-m", "tools.gpu.check_graphs", library), 40),
    ]
    for tool in ("memcheck", "racecheck"):
        under = (sanitizer, f"--tool={tool}", "--error-exitcode=7")
        parts.append(Part(tool, small, 60, under))
    return parts


def _experiment(run: Run, library: str, variants: "dict[str, Future[Path]]") -> None:
    """The same shapes with the constants as they are and with each alternative."""
    words = ("-m", "tools.gpu.measure")
    run.do(Part("as_built", (*words, library, "15", "--experiments"), 30))
    for name, variant in variants.items():
        try:
            built = str(variant.result(timeout=run.left()))
        except (build.BuildError, TimeoutError) as error:
            run.results[name] = {"ok": False, "failed": f"build: {error}"}
            continue
        run.do(Part(name, (*words, built, "15", "--experiments"), 30))


def _machine() -> dict[str, Any]:
    import torch

    machine: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties()
        machine |= {
            "gpu": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        }
    return machine


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
