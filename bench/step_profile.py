"""Where the time of a decoding step goes: in the worker's operators, in Python, and between the processes.

    python -m bench.step_profile MODEL [--batches 1 8] [--eager] [--json FILE]

MODEL is a checkpoint such as `python -m bench.random_checkpoint` writes. With OCTET_KERNELS=off it is vLLM
that is looked at. torch's profiler notes every operator, which itself takes a microsecond or two each; the
first line of a table has the step without it. A compiled model is compiled anew for this, with its kernels'
names.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before vLLM is imported: standard output is for the result.
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")

from rich import box
from rich.console import Console
from rich.table import Table

from bench.engine_run import Engine
from octet.bench import machine
from octet.bench.timing import Timing
from octet.engine.vllm.inside.worker import WorkerExtension

WORKER, MODEL, VOCABULARY = "bench: worker", "bench: model", "bench: vocabulary"

PRODUCTS = "products"
ROWS = "norms, activations, rotation, quantization"
ATTENTION = "attention and its cache"
INDUCTOR = "Inductor's kernels"
OTHERS = "other operators in the model"
BETWEEN = "Python between the model's operators"
OUTPUT = "vocabulary"
AROUND = "inputs, sampling and Python of the worker"
MESSAGES = "scheduling and messages"
GROUPS = (PRODUCTS, ROWS, ATTENTION, INDUCTOR, OTHERS, BETWEEN, OUTPUT, AROUND, MESSAGES)

_PRODUCTS = (
    "octet::fp8_linear",
    "aten::linear",
    "aten::mm",
    "aten::addmm",
    "aten::_scaled_mm",
    "_C::onednn_mm",
)
# In the name of each of Inductor's kernels.
_INDUCTOR = "cpp_fused"


class ProfiledWorker(WorkerExtension):
    """What the engine's worker can be asked besides."""

    _bench_profile: Any = None

    def bench_start(self) -> None:
        """Begins to note what runs, with ranges around the worker's, the model's, the vocabulary's part."""
        from torch.profiler import ProfilerActivity, profile

        runner = self.model_runner  # type: ignore[attr-defined]
        if not hasattr(runner, "bench_is_marked"):
            runner.bench_is_marked = True
            for owner, method, name in (
                (runner, "execute_model", WORKER),
                (runner, "sample_tokens", WORKER),
                (runner, "_model_forward", MODEL),
                (runner.model, "compute_logits", VOCABULARY),
            ):
                setattr(owner, method, _marked(getattr(owner, method), name))
        self._bench_profile = profile(activities=[ProfilerActivity.CPU])
        self._bench_profile.start()

    def bench_stop(self) -> tuple[dict[str, float], dict[str, int]]:
        """Ends it. Returns by group the seconds, without MESSAGES, and how many operators ran."""
        profile, self._bench_profile = self._bench_profile, None
        profile.stop()
        seconds: Counter[str] = Counter()
        calls: Counter[str] = Counter()
        for event in profile.events():
            group = group_of(event)
            if group is not None:
                seconds[group] += event.self_cpu_time_total * 1e-6
                calls[group] += _is_operator(event.name) and not _is_operator(event.cpu_parent.name)
        return dict(seconds), dict(calls)


def group_of(event: Any) -> str | None:
    """Where an event of the profiler belongs, by names of what it is part of; None outside of a step."""
    names = [event.name]
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    if WORKER not in names:
        return None
    if VOCABULARY in names:
        return OUTPUT
    if MODEL not in names:
        return AROUND
    operators = [name for name in names if _is_operator(name)]
    return _group_of_operator(operators[-1]) if operators else BETWEEN


def _is_operator(name: str) -> bool:
    """And not a range that somebody has put around some."""
    return "::" in name or _INDUCTOR in name


def _group_of_operator(name: str) -> str:
    if name in _PRODUCTS:
        return PRODUCTS
    if name.startswith("octet::"):
        return ROWS
    if name.startswith("vllm::unified_") or "cpu_attn" in name or "cpu_attention" in name:
        return ATTENTION
    if _INDUCTOR in name:
        return INDUCTOR
    return OTHERS


def _marked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    from torch.profiler import record_function

    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return run


def profiled(engine: Engine, batch: int, new_tokens: int) -> dict[str, Any]:
    """Decodes with `batch` requests, without the profiler and with it.

    Returns:
        Seconds of a step without it and with it, both medians; of each group the seconds of a step, as a
        mean, and its operators in a step.
    """
    without = engine.decode(batch, new_tokens)["step"]["median_s"]
    engine.ask("bench_start")
    taken = engine.steps(batch, 16, new_tokens)
    seconds, calls = engine.ask("bench_stop")
    steps = len(taken)
    total = sum(step for step, _ in taken)
    seconds[MESSAGES] = total - sum(seconds.values())
    return {
        "batch": batch,
        "step_s": without,
        "profiled_step_s": Timing.of([step for step, _ in taken[1:]]).median,
        "seconds": {group: seconds.get(group, 0.0) / steps for group in GROUPS},
        "calls": {group: calls.get(group, 0) / steps for group in GROUPS},
    }


def table(result: dict[str, Any]) -> Table:
    """One batch's profile."""
    title = f"batch {result['batch']}: {result['step_s'] * 1e3:.1f} ms a step, "
    rendered = Table(
        box=box.MARKDOWN, title=f"{title}{result['profiled_step_s'] * 1e3:.1f} with the profiler"
    )
    rendered.add_column("part")
    rendered.add_column("ms a step", justify="right")
    rendered.add_column("operators", justify="right")
    for group in GROUPS:
        calls = result["calls"][group]
        rendered.add_row(group, f"{result['seconds'][group] * 1e3:.2f}", f"{calls:.0f}" if calls else "")
    return rendered


def main() -> None:
    """Profiles what the command line names."""
    parser = argparse.ArgumentParser(description="Profile decoding steps.")
    parser.add_argument("model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    parser.add_argument("--json", type=Path, dest="json_file", help="write it all here")
    arguments = parser.parse_args()
    engine = Engine(
        arguments.model,
        eager=arguments.eager,
        longest=64 + arguments.new_tokens,
        batch=max(arguments.batches),
        worker_extension_cls="bench.step_profile.ProfiledWorker",
        compilation_config={"inductor_compile_config": {"cpp.enable_kernel_profile": True}},
    )
    engine.steps(max(arguments.batches), 16, 2)
    results = [profiled(engine, batch, arguments.new_tokens) for batch in arguments.batches]
    described = machine.describe("cpu")
    console = Console(width=120)
    console.print(machine.summary(described), markup=False, highlight=False)
    for result in results:
        console.print(table(result))
    if arguments.json_file is not None:
        report = {"machine": described, "kernels": engine.active_kernels(), "profiles": results}
        arguments.json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
