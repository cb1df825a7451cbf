"""Throughput and latency by load. Importing it imports matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")  # a file, never a window

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from octet.bench import machine
from octet.bench.serving.figures import PERCENTILES, Turns
from octet.bench.serving.report import SPREADS
from octet.bench.serving.run import Measured

_LATENCIES = ("first token", "first text", "a token", "between pieces")


def save(title: str, measured: Sequence[Measured], path: Path) -> None:
    """Draws tokens a second, and each kind of latency, over the loads, into a file of its suffix's format.

    Points are medians of the turns; bars reach from the least to the most of them.
    """
    figure, panels = plt.subplots(1, 1 + len(_LATENCIES), figsize=(22, 4.5), layout="constrained")
    places = range(len(measured))
    speed = [Turns.of(f.a_second(f.answer_tokens) for f in each.turns) for each in measured]
    _line(panels[0], speed, "tokens a second")
    panels[0].set(title="throughput", ylabel="tokens a second")
    for axes, name in zip(panels[1:], _LATENCIES, strict=True):
        for percent in PERCENTILES:
            of_turns = [
                Turns.of(1e3 * SPREADS[name](f).percentiles[percent] for f in each.turns) for each in measured
            ]
            _line(axes, of_turns, f"p{percent}")
        axes.set(title=name, ylabel="ms")
        axes.legend(fontsize="small")
    for axes in panels:
        axes.set_xticks(places, [str(each.level) for each in measured], rotation=30, ha="right")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    figure.suptitle(f"{title}; load from {machine.host_summary(machine.host())}", fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axes: Axes, turns: Sequence[Turns], label: str) -> None:
    middle = [each.middle for each in turns]
    below = [each.middle - each.least for each in turns]
    above = [each.most - each.middle for each in turns]
    axes.errorbar(range(len(turns)), middle, yerr=[below, above], marker="o", capsize=3, label=label)
