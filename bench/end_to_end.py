"""Octet against others, end to end: the same model, one process after the other on the same machine.

    python -m bench.end_to_end [--llama-cpp] [--turns N] [--layers N] [--json FILE]

The others are vLLM without Octet and, where it is asked for, llama.cpp. The model is what
`python -m bench.random_checkpoint` writes; where it is missing, it is written first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench import random_checkpoint
from bench.llama_cpp import engine as llama_cpp
from octet.bench import machine
from octet.engine.vllm.launch import threads

ROOT = Path(__file__).resolve().parent.parent
LAYERS = 26
"""Of Gemma 3 1B."""

LLAMA_CPP = "llama.cpp"
_LLAMA_TITLE = "llama.cpp, Q8_0"


@dataclass(frozen=True, slots=True)
class Variant:
    """An engine to be measured.

    Attributes:
        title: how the table calls it.
        weights: which of the checkpoint's formats it loads.
        kernels: OCTET_KERNELS.
        new_tokens: that it decodes. vLLM takes seconds for one where it multiplies FP8 on a CPU.
        repetitions: of the prompt.
        fp8_vocabulary: whether it runs with --fp8-vocabulary.
    """

    title: str
    weights: str
    kernels: str
    new_tokens: int
    repetitions: int
    fp8_vocabulary: bool = False


VARIANTS = {
    "octet": Variant("Octet, FP8", "fp8", "on", new_tokens=48, repetitions=7),
    "octet-vocabulary": Variant(
        "Octet, FP8 with its vocabulary", "fp8", "on", new_tokens=48, repetitions=7, fp8_vocabulary=True
    ),
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
    command += ["--eager"] * eager + ["--fp8-vocabulary"] * variant.fp8_vocabulary
    environment = os.environ | {"OCTET_KERNELS": variant.kernels}
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    output = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout
    result: dict[str, Any] = json.loads(output)
    return {"title": variant.title} | result


def middle(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """One engine's turns as one run: of each figure the median. They stand in it under `turns`."""
    first = [turn["first_token"]["median_s"] for turn in turns]
    speeds = zip(*([decode["tokens_per_s"] for decode in turn["decode"]] for turn in turns), strict=True)
    batches = [decode["batch"] for decode in turns[0]["decode"]]
    return {
        "title": turns[0]["title"],
        "first_token": {"median_s": statistics.median(first)},
        "decode": [
            {"batch": batch, "tokens_per_s": statistics.median(each)}
            for batch, each in zip(batches, speeds, strict=True)
        ],
        "turns": turns,
    }


def table(runs: Mapping[str, dict[str, Any]]) -> Table:
    """The runs, each with its ratio to bf16, and to llama.cpp where that is among them."""
    references = {name: runs[key] for key, name in (("bf16", "bf16"), (LLAMA_CPP, LLAMA_CPP)) if key in runs}
    rendered = Table(box=box.MARKDOWN)
    rendered.add_column("engine")
    batches = [decode["batch"] for decode in next(iter(runs.values()))["decode"]]
    for figure in (*(f"tokens/s, batch {batch}" for batch in batches), "first token"):
        rendered.add_column(figure, justify="right")
        for name in references:
            rendered.add_column(f"to {name}", justify="right")
    for run in runs.values():
        cells = [run["title"]]
        for index, decode in enumerate(run["decode"]):
            cells.append(f"{decode['tokens_per_s']:.3g}")
            for reference in references.values():
                ratio = decode["tokens_per_s"] / reference["decode"][index]["tokens_per_s"]
                cells.append(f"{ratio:.2f}x")
        first = run["first_token"]["median_s"]
        cells.append(f"{first:.2f} s")
        cells += [f"{first / each['first_token']['median_s']:.2f}x" for each in references.values()]
        rendered.add_row(*cells)
    return rendered


def cores(binding: str) -> list[int]:
    """The cores of VLLM_CPU_OMP_THREADS_BIND, such as 0-1 or 0,2, for one rank.

    Raises:
        ValueError: it names none.
    """
    found = threads.listed(binding)
    if not found:
        raise ValueError(f"invalid literal for a list of cores: {binding!r}")
    return found


def main() -> None:
    """Measures, prints the table, and writes everything where the command line says."""
    parser = argparse.ArgumentParser(description="Measure Octet against others.")
    parser.add_argument("--checkpoint", type=Path, help="default: a folder of build/bench")
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the model (default: %(default)s)")
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument(
        "--llama-cpp", action="store_true", help="llama.cpp, too; it is built into build/llama-cpp first"
    )
    parser.add_argument(
        "--turns",
        type=int,
        default=1,
        help="how often every engine is started, one after the other; medians count (default: %(default)s)",
    )
    parser.add_argument("--eager", action="store_true", help="do not compile the models")
    arguments = parser.parse_args()
    llama_cores = _llama_cores(parser) if arguments.llama_cpp else []
    checkpoint = arguments.checkpoint or _default_checkpoint(arguments.layers)
    _write_missing(checkpoint, arguments.layers)
    if arguments.llama_cpp:
        llama_cpp.prepare(checkpoint)
    turns: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.turns):
        for name in arguments.only:
            turn = measure(VARIANTS[name], checkpoint, eager=arguments.eager)
            turns.setdefault(name, []).append(turn)
        if arguments.llama_cpp:
            measured = llama_cpp.measure(checkpoint, llama_cores, new_tokens=48, repetitions=7)
            turns.setdefault(LLAMA_CPP, []).append({"title": _LLAMA_TITLE} | measured)
    runs = {name: middle(each) for name, each in turns.items()}
    described = machine.describe("cpu")
    console = Console(width=200)
    console.print(machine.summary(described), markup=False, highlight=False)
    console.print(table(runs))
    if arguments.json_file is not None:
        report = {
            "machine": described, "eager": arguments.eager, "layers": arguments.layers, "runs": runs,
        }  # fmt: skip
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _llama_cores(parser: argparse.ArgumentParser) -> list[int]:
    """All engines compute on the same cores, which has to be said: left to itself, vLLM leaves one free."""
    try:
        return cores(os.environ.get(threads.BINDING, ""))
    except ValueError:
        parser.error(f"--llama-cpp: {threads.BINDING} has to name the cores, such as 0-1, for all engines")


def _default_checkpoint(layers: int) -> Path:
    name = "gemma-3-1b-random" + (f"-{layers}-layers" if layers != LAYERS else "")
    return ROOT / "build" / "bench" / name


def _write_missing(checkpoint: Path, layers: int) -> None:
    if not all((checkpoint / form / "config.json").is_file() for form in random_checkpoint.FORMATS):
        print(f"writing {checkpoint}", file=sys.stderr)
        random_checkpoint.write(checkpoint, layers)


if __name__ == "__main__":
    main()
