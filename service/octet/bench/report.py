"""Results as tables, in Markdown's form: to be read in a terminal and to be pasted into a document."""

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from octet.bench import machine
from octet.bench.run import Report, Result

# Wide enough that no cell is wrapped, whatever the terminal: a wrapped row is not Markdown any more.
_WIDTH = 160

# What stands beside the kernel, and its column. A ratio above 1 means that the kernel is the faster one.
_COLUMNS = {
    "copy": "speed of a copy",
    "read": "speed of a read",
    "plain": "time of plain quantization",
    "eager": "eager torch",
    "compiled": "torch.compile",
    "apart": "two operators",
    "vllm": "vLLM's bf16",
    "bf16": "bf16 linear",
    "stock": "stock op",
}


def print_report(report: Report) -> None:
    """Prints the machine, its limits, and one table for each kernel, variant and number of threads."""
    console = Console(width=_WIDTH)
    console.print(machine.summary(report.machine), markup=False, highlight=False)
    for roof in report.roofs:
        console.print(
            f"{roof.threads} threads: read {roof.read / 1e9:.1f} GB/s, copy {roof.copy / 1e9:.1f} GB/s, "
            f"bf16 product {roof.flops / 1e9:.0f} GFLOP/s",
            highlight=False,
        )
    for note in report.notes:
        console.print(note, markup=False, highlight=False)
    for (kernel, variant, threads), group in groupby(
        sorted(report.results, key=_order), key=lambda r: (r.kernel, r.variant, r.threads)
    ):
        console.print(f"\n{kernel}, {variant}, {threads} threads\n", highlight=False)
        console.print(table(list(group)))


def table(results: list[Result]) -> Table:
    """The results of one kernel, variant and number of threads."""
    compared = [name for name in _COLUMNS if any(name in result.timings for result in results)]
    rendered = Table(box=box.MARKDOWN)
    for heading in ("shape", "rows", "median (quartiles)", "GB/s", "GFLOP/s"):
        rendered.add_column(heading, justify="left" if heading == "shape" else "right")
    for name in compared:
        rendered.add_column(_COLUMNS[name], justify="right")
    for result in results:
        octet = result.timings["octet"]
        rendered.add_row(
            result.shape,
            str(result.rows),
            f"{_time(octet.median)} ({_time(octet.q1)} to {_time(octet.q3)})",
            f"{result.bytes_moved / result.seconds / 1e9:.1f}",
            f"{result.flops / result.seconds / 1e9:.0f}" if result.flops else "",
            *(_ratio(result, name) for name in compared),
        )
    return rendered


def _order(result: Result) -> tuple[str, str, int]:
    return result.kernel, result.variant, result.threads


def _ratio(result: Result, name: str) -> str:
    ratio = result.ratio(name)
    if ratio is None:
        return ""
    if name in ("copy", "read"):
        return f"{ratio:.0%}"
    if name == "plain":
        return f"{1 / ratio:.2f}x"
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
