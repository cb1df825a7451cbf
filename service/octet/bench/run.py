"""Measures the kernels: every instruction set, number of threads and shape that was asked for."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from octet import ops
from octet.bench import cases, gpu, machine, roofs, shapes, timing
from octet.engine.vllm import compat

# A shape whose next larger number of rows would take longer than this for one call is left there.
_LONGEST_CALL_S = 4.0
# vLLM's product is measured up to this many rows: beyond, a call takes seconds and decides nothing.
_STOCK_ROWS = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure, and for how long.

    Attributes:
        kernels: operators.
        isas: CPU kernels by name, the fastest first; on CUDA none.
        threads: numbers of threads.
        linear: names in shapes.LINEAR.
        widths: names in shapes.WIDTHS.
        linear_rows: rows for the products of linear layers.
        width_rows: rows for the other kernels.
        seconds: for each function that is timed.
        device: "cpu" or "cuda".
    """

    kernels: tuple[str, ...]
    isas: tuple[str, ...]
    threads: tuple[int, ...]
    linear: tuple[str, ...]
    widths: tuple[str, ...]
    linear_rows: tuple[int, ...]
    width_rows: tuple[int, ...]
    seconds: float
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Result:
    """A kernel on a shape, and what was measured beside it."""

    kernel: str
    shape: str
    rows: int
    variant: str
    threads: int
    bytes_moved: int
    flops: int
    timings: dict[str, timing.Timing]

    @property
    def seconds(self) -> float:
        """The kernel's median."""
        return self.timings["octet"].median

    def ratio(self, other: str) -> float | None:
        """How many times as long as the kernel `other` takes; None where that was not measured."""
        return self.timings[other].median / self.seconds if other in self.timings else None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"timings": {name: value.as_json() for name, value in self.timings.items()}}


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run measured, in the order in which it did, and what it could not, for people."""

    machine: dict[str, Any]
    roofs: list[roofs.Roofs]
    results: list[Result]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "machine": self.machine,
            "roofs": [roof.as_json() for roof in self.roofs],
            "results": [result.as_json() for result in self.results],
            "notes": self.notes,
        }


def run(settings: Settings, progress: Callable[[str], None]) -> Report:
    """Measures everything that `settings` names; leaves torch's threads and the kernels as they were.

    Args:
        settings: what to measure.
        progress: is told what is measured next.
    """
    threads_before, isa_before = torch.get_num_threads(), ops.isa()
    roof_list: list[roofs.Roofs] = []
    results: list[Result] = []
    of_vllm = _ProductsOfVllm()
    try:
        for threads in settings.threads:
            torch.set_num_threads(threads)
            progress(f"the machine's limits, {threads} threads")
            roof_list.append(roofs.measure(threads, settings.seconds, settings.device))
        for kernel in settings.kernels:
            if kernel in cases.LINEAR_KERNELS:
                results.extend(_linear(kernel, settings, of_vllm, progress))
            else:
                results.extend(_row_kernel(kernel, settings, progress))
    finally:
        torch.set_num_threads(threads_before)
        ops.use_isa(isa_before)
    return Report(machine.describe(settings.device), roof_list, results, of_vllm.notes)


class _ProductsOfVllm:
    """vLLM's own product of bf16 layers: what people have who do not quantize.

    Attributes:
        notes: why there is none, a line each.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def prepare(self, weight: torch.Tensor) -> cases.Product | None:
        """The product with a weight, which vLLM may repack; None where it is torch's, measured anyway."""
        try:
            name, product = compat.kernels.unquantized_linear(weight)
        except ImportError as error:
            self._note(f"no column of vLLM's bf16: vLLM cannot be imported: {error}")
            return None
        if name == "linear":
            self._note(
                "no column of vLLM's bf16: oneDNN does not prepack bf16 weights for this processor, and vLLM "
                "multiplies with torch's linear, which has a column"
            )
            return None
        return product

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


def _row_kernel(kernel: str, settings: Settings, progress: Callable[[str], None]) -> Iterator[Result]:
    widths = [shapes.WIDTHS[name] for name in settings.widths]
    for make_case in cases.row_cases(kernel, widths, settings.width_rows, settings.device):
        if settings.device == "cuda":
            progress(f"{kernel} {make_case.args[0]} x {make_case.args[1]}")
            yield _on_gpu(make_case, settings)
            continue
        case = make_case()
        for variant, threads in _configurations(settings):
            progress(f"{kernel} {case.rows} x {case.shape}, {variant}, {threads} threads")
            yield _measure(case, variant, threads, settings)


def _on_gpu(make_case: Callable[[], cases.Case], settings: Settings) -> Result:
    """Measures a case beside torch.compile's version of it and vLLM's own kernel, where there is one."""

    def make() -> cases.Case:
        case = make_case()
        functions = case.functions | {"compiled": gpu.as_compiled(case.functions["eager"])}
        stock = compat.kernels.stock_kernel(case.kernel, case.rows, int(case.shape))
        if stock is not None:
            functions["stock"] = stock
        return dataclasses.replace(case, functions=functions)

    case, timings = gpu.measure(make, settings.seconds)
    return Result(case.kernel, case.shape, case.rows, "cuda", 1, case.bytes_moved, case.flops, timings)


def _linear(
    kernel: str, settings: Settings, of_vllm: _ProductsOfVllm, progress: Callable[[str], None]
) -> Iterator[Result]:
    for name in settings.linear:
        progress(f"{kernel} {name}: making the weights")
        operands = cases.LinearOperands(shapes.LINEAR[name], of_vllm.prepare)
        for variant, threads in _configurations(settings):
            seconds, before = 0.0, 1
            for rows in settings.linear_rows:
                if seconds * rows / before > _LONGEST_CALL_S:
                    break
                progress(f"{kernel} {name}, {rows} rows, {variant}, {threads} threads")
                with_stock = rows <= _STOCK_ROWS and variant == settings.isas[0]
                case = (
                    operands.case(rows, with_stock=with_stock)
                    if kernel == "fp8_linear"
                    else operands.bf16_case(rows)
                )
                result = _measure(case, variant, threads, settings)
                yield result
                seconds, before = result.seconds, rows


def _configurations(settings: Settings) -> Iterable[tuple[str, int]]:
    """Puts each pair of CPU kernels and threads into force, and names it."""
    for isa in settings.isas:
        ops.use_isa(isa)
        for threads in settings.threads:
            torch.set_num_threads(threads)
            yield isa, threads


def _measure(case: cases.Case, variant: str, threads: int, settings: Settings) -> Result:
    timings = timing.take_turns(case.functions, settings.seconds)
    return Result(case.kernel, case.shape, case.rows, variant, threads, case.bytes_moved, case.flops, timings)
