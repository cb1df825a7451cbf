"""Octet against vLLM without it, end to end: the same model, one process after the other on the same machine.

    python -m bench.end_to_end [--checkpoint FOLDER] [--json FILE]

The folder is what `python -m bench.random_checkpoint` writes; where it is missing, it is written first.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench import random_checkpoint
from octet.bench import machine

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CHECKPOINT = ROOT / "build" / "bench" / "gemma-3-1b-random"


@dataclass(frozen=True, slots=True)
class Variant:
    """An engine to be measured.

    Attributes:
        title: how the table calls it.
        weights: which of the checkpoint's formats it loads.
        kernels: OCTET_KERNELS.
        new_tokens: that it decodes. vLLM takes seconds for one where it multiplies FP8 on a CPU.
        repetitions: of the prompt.
    """

    title: str
    weights: str
    kernels: str
    new_tokens: int
    repetitions: int


VARIANTS = {
    "octet": Variant("Octet, FP8", "fp8", "on", new_tokens=48, repetitions=7),
    "bf16": Variant("vLLM, bf16", "bf16", "off", new_tokens=48, repetitions=7),
    "fp8": Variant("vLLM, FP8", "fp8", "off", new_tokens=3, repetitions=1),
}


def measure(variant: Variant, checkpoint: Path, *, eager: bool) -> dict[str, Any]:
    """Runs one engine in a process of its own; its log goes to standard error.

    Raises:
        subprocess.CalledProcessError: the engine failed.
    """
    command = [sys.executable, "-m", "bench.engine_run", str(checkpoint / variant.weights)]
    command += ["--new-tokens", str(variant.new_tokens), "--repetitions", str(variant.repetitions)]
    command += ["--eager"] * eager
    environment = os.environ | {"OCTET_KERNELS": variant.kernels}
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    output = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout
    result: dict[str, Any] = json.loads(output)
    return {"title": variant.title} | result


def table(runs: dict[str, dict[str, Any]]) -> Table:
    """The runs, each with its ratio to bf16."""
    rendered = Table(box=box.MARKDOWN)
    rendered.add_column("engine")
    batches = [decode["batch"] for decode in next(iter(runs.values()))["decode"]]
    for batch in batches:
        rendered.add_column(f"tokens/s, batch {batch}", justify="right")
        rendered.add_column("to bf16", justify="right")
    rendered.add_column("first token", justify="right")
    rendered.add_column("to bf16", justify="right")
    reference = runs.get("bf16", {})
    for run in runs.values():
        cells = [run["title"]]
        for index, decode in enumerate(run["decode"]):
            speed = decode["tokens_per_s"]
            cells.append(f"{speed:.3g}")
            cells.append(f"{speed / reference['decode'][index]['tokens_per_s']:.2f}x" if reference else "")
        first = run["first_token"]["median_s"]
        cells.append(f"{first:.2f} s")
        cells.append(f"{first / reference['first_token']['median_s']:.2f}x" if reference else "")
        rendered.add_row(*cells)
    return rendered


def main() -> None:
    """Measures, prints the table, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(description="Measure Octet against vLLM without it.")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--eager", action="store_true", help="do not compile the models")
    arguments = parser.parse_args()
    if not all((arguments.checkpoint / form / "config.json").is_file() for form in random_checkpoint.FORMATS):
        print(f"writing {arguments.checkpoint}", file=sys.stderr)
        random_checkpoint.write(arguments.checkpoint)
    runs = {}
    for name in arguments.only:
        runs[name] = measure(VARIANTS[name], arguments.checkpoint, eager=arguments.eager)
    described = machine.describe("cpu")
    console = Console(width=160)
    console.print(machine.summary(described), markup=False, highlight=False)
    console.print(table(runs))
    if arguments.json_file is not None:
        report = {"machine": described, "eager": arguments.eager, "runs": runs}
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
