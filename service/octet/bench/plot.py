"""The roofline plot: how close the kernels come to the machine's limits. Importing it imports matplotlib."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")  # a file, never a window

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from octet.bench import machine
from octet.bench.run import Report, Result

_MARKERS = "osD^vP*X"


def save(report: Report, path: Path) -> None:
    """Draws one panel for each number of threads, and writes it to `path`, in the format of its suffix.

    Above, the products, by the operations that they have for each byte they move: under the slope memory
    limits them, under the level arithmetic. Below, the kernels that only move data, by how much they move:
    while that fits into a cache, they are faster than a copy from memory.
    """
    figure, panels = plt.subplots(
        2, len(report.roofs), figsize=(7 * len(report.roofs), 10), squeeze=False, layout="constrained"
    )
    for column, roof in enumerate(report.roofs):
        results = [result for result in report.results if result.threads == roof.threads]
        _products(panels[0][column], [r for r in results if r.flops], roof.copy, roof.read, roof.flops)
        _row_kernels(panels[1][column], [r for r in results if not r.flops], roof.copy)
        panels[0][column].set_title(f"products, {roof.threads} threads")
        panels[1][column].set_title(f"kernels of rows, {roof.threads} threads")
    figure.suptitle(machine.summary(report.machine), fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _products(axes: Axes, results: list[Result], copy: float, read: float, flops: float) -> None:
    intensity = np.logspace(0, 4, 200)
    axes.loglog(
        intensity, np.minimum(intensity * read, flops) / 1e9, "k-", label="read bandwidth, bf16 product"
    )
    axes.loglog(intensity, np.minimum(intensity * copy, flops) / 1e9, "k:", label="copy bandwidth")
    groups = _by(results, lambda r: f"{r.kernel}, {r.variant}")
    for marker, (name, group) in zip(_MARKERS * 2, groups.items(), strict=False):
        axes.loglog(
            [r.flops / r.bytes_moved for r in group],
            [r.flops / r.seconds / 1e9 for r in group],
            marker,
            alpha=0.6,
            label=name,
        )
    axes.set(xlabel="operations a byte", ylabel="GFLOP/s")
    axes.legend(fontsize="small")
    axes.grid(visible=True, alpha=0.3)


def _row_kernels(axes: Axes, results: list[Result], copy: float) -> None:
    axes.axhline(copy / 1e9, color="k", linestyle=":", label="copy from memory")
    groups = _by(results, lambda r: f"{r.kernel}, {r.variant}")
    for marker, (name, group) in zip(_MARKERS * 4, groups.items(), strict=False):
        axes.loglog(
            [r.bytes_moved for r in group],
            [r.bytes_moved / r.seconds / 1e9 for r in group],
            marker,
            alpha=0.6,
            label=name,
        )
    axes.set(xlabel="bytes moved", ylabel="GB/s", xscale="log", yscale="log")
    axes.legend(fontsize="x-small")
    axes.grid(visible=True, alpha=0.3)


def _by(results: list[Result], key: Callable[[Result], str]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[key(result)].append(result)
    return groups
