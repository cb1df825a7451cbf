"""What a picture costs, and whom it holds up: Octet, vLLM without it, and transformers, one after the other.

    python -m bench.vision_tower [--checkpoint FOLDER] [--pictures 4] [--json FILE]

The folder holds a Gemma 3 checkpoint in bf16. Where the default one is missing, it is written first: Gemma 3
4B's geometry with random weights and few layers (`tools/real_geometry`).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from octet.bench import machine

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CHECKPOINT = ROOT / "build" / "bench" / "real-geometry"
# What the table calls each, the program of bench.vision_run, and OCTET_KERNELS.
VARIANTS = {
    "octet": ("Octet", "engine", "on"),
    "vllm": ("vLLM", "engine", "off"),
    "bfloat16": ("transformers, bf16", "bfloat16", "off"),
    "float32": ("transformers, f32", "float32", "off"),
}
REFERENCE = "float32"


def measure(name: str, checkpoint: Path, pictures: int) -> dict[str, Any]:
    """Runs one of them in a process of its own; its log goes to standard error.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    title, program, kernels = VARIANTS[name]
    command = [sys.executable, "-m", "bench.vision_run", program, str(checkpoint)]
    environment = os.environ | {"OCTET_KERNELS": kernels}
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", _cores())
    output = subprocess.run(
        [*command, "--pictures", str(pictures)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    result: dict[str, Any] = json.loads(output)
    return {"title": title} | result


def _cores() -> str:
    """All cores: left to itself, vLLM keeps one free."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


def add_errors(runs: dict[str, dict[str, Any]]) -> None:
    """Puts in place of each run's embeddings their distance from the reference's, relative to its size."""
    embeddings = {name: torch.tensor(run.pop("embeddings")) for name, run in runs.items()}
    exact = embeddings.get(REFERENCE)
    for name, run in runs.items():
        if exact is not None:
            run["error"] = float((embeddings[name] - exact).norm() / exact.norm())


def table(runs: dict[str, dict[str, Any]]) -> Table:
    """The runs, one a row."""
    rendered = Table(box=box.MARKDOWN)
    rendered.add_column("program")
    columns = ("tower", "of the peak", "error", "first token", "gap without", "largest gap", "new text")
    for column in columns:
        rendered.add_column(column, justify="right")
    for run in runs.values():
        share = run["operations"] / run["tower_s"] / run["peak"]
        rendered.add_row(
            run["title"],
            f"{run['tower_s']:.2f} s",
            f"{share:.0%}",
            f"{run['error']:.1e}" if "error" in run else "",
            *(
                f"{run[name]:.2f} s" if run.get(name) is not None else ""
                for name in ("first_token_s", "gap_without_s", "largest_gap_s", "text_s")
            ),
        )
    return rendered


def main() -> None:
    """Measures, prints the table, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(description="Measure what pictures cost.")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT / "bf16")
    parser.add_argument("--pictures", type=int, default=4, help="of one request (default: %(default)s)")
    parser.add_argument("--vision-layers", type=int, default=2, help="of the checkpoint that is written")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    arguments = parser.parse_args()
    if not (arguments.checkpoint / "config.json").is_file():
        _write(arguments.checkpoint.parent, arguments.vision_layers)
    runs = {name: measure(name, arguments.checkpoint, arguments.pictures) for name in arguments.only}
    add_errors(runs)
    described = machine.describe("cpu")
    console = Console(width=160)
    console.print(machine.summary(described), markup=False, highlight=False)
    console.print(table(runs))
    if arguments.json_file is not None:
        report = {"machine": described, "pictures": arguments.pictures, "runs": runs}
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _write(folder: Path, vision_layers: int) -> None:
    print(f"writing {folder}", file=sys.stderr)
    command = [sys.executable, "-m", "tools.real_geometry.write", str(folder), "--layers", "2"]
    subprocess.run([*command, "--vision-layers", str(vision_layers)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
