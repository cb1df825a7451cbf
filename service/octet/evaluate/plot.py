"""The errors of a model's weights as a picture."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from octet.errors import OctetError
from octet.evaluate.weights import LayerError


class PlotError(OctetError):
    """A picture cannot be drawn or written. The message is one line."""

    reason = "PLOT"


def require_matplotlib() -> None:
    """Raises PlotError when matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise PlotError("--plot needs matplotlib; run `pip install octet-serve[bench]`") from error


def plot_errors(errors: Sequence[LayerError], path: Path) -> None:
    """Draws the SQNR over the layers as a PNG: a line for each kind of module, its worst channels dotted.

    Raises:
        PlotError: matplotlib is not installed, or the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kinds: dict[str, list[LayerError]] = defaultdict(list)
    for error in errors:
        kinds[error.kind].append(error)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, (kind, members) in enumerate(kinds.items()):
        members.sort(key=lambda member: member.layer or 0)
        layers = [member.layer or 0 for member in members]
        colour = f"C{number % 10}"
        axes.plot(layers, [m.error.sqnr for m in members], "o-", color=colour, label=kind)
        axes.plot(layers, [m.error.worst_sqnr for m in members], "v:", color=colour, alpha=0.5)
    axes.set_xlabel("layer")
    axes.set_ylabel("SQNR of the weights, dB (dotted: worst output channel)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(ncols=2)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise PlotError(f"{path} cannot be written: {error.strerror}") from error
