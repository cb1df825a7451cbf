"""The curves as pictures. Importing it imports matplotlib."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # a file, never a window

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from octet.bench.serving.figures import Turns

Figure = Callable[[dict[str, Any]], float]


def tokens_per_s(turn: dict[str, Any]) -> float:
    """Throughput of a turn, out of JSON."""
    return float(turn["tokens_per_s"])


def latency(name: str, percentile: str) -> Figure:
    """A latency of a turn in milliseconds, out of JSON; NaN where nothing was measured."""
    return lambda turn: 1e3 * float(turn[f"{name}_s"].get(percentile, float("nan")))


def save(curve: dict[str, Any], title: str, path: Path) -> None:
    """Draws throughput and first text of a curve, as JSON has it, into a file of its suffix's format."""
    figure, (speed, first) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    points = curve["points"]
    _line(speed, points, tokens_per_s, "")
    speed.set(title="throughput", ylabel="tokens a second")
    for percentile in ("p50", "p90", "p99"):
        _line(first, points, latency("first_text", percentile), percentile)
    first.set(title="first text", ylabel="ms")
    first.legend(fontsize="small")
    for axes in (speed, first):
        axes.set_xlabel(curve["axis"])
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
        if points[-1]["x"] > 16:
            axes.set_xscale("log", base=2)
    figure.suptitle(f"{curve['fixed']}; {title}", fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axes: Axes, points: Sequence[dict[str, Any]], figure: Figure, label: str) -> None:
    turns = [Turns.of(figure(turn) for turn in point["turns"]) for point in points]
    below = [each.middle - each.least for each in turns]
    above = [each.most - each.middle for each in turns]
    xs, middles = [point["x"] for point in points], [each.middle for each in turns]
    axes.errorbar(xs, middles, yerr=[below, above], marker="o", capsize=3, label=label)
