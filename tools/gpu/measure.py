"""Times every operator beside a device copy, torch.compile and, where vLLM is there, its own kernel.

Usage: python -m tools.gpu.measure LIBRARY SECONDS [--experiments]    (--experiments: the shapes that decide
these)
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from octet.bench import cases, gpu
from tools.gpu.subject import load, say

_ROWS = (1, 16, 64, 256, 1024, 4096, 16384)
_WIDTHS = (1024, 3840, 5120, 15360)
# What lies in a shape of its own for one of the experiments of csrc/cuda/README.md.
_EXPERIMENTS = (
    ("per_token_quant_fp8", 1, 15360),
    ("per_token_quant_fp8", 256, 15360),
    ("per_token_quant_fp8", 4096, 15360),
    ("gelu_tanh_and_mul_quant_fp8", 1, 15360),
    ("gelu_tanh_and_mul_quant_fp8", 4096, 15360),
    ("gemma_norm_add_norm_quant_fp8", 1, 3840),
    ("gemma_norm_add_norm_quant_fp8", 4096, 3840),
    ("per_token_quant_fp8", 16, 1024),
    ("per_token_quant_fp8", 4096, 1024),
)
# What torch.compile is measured on as well, when all else is: it takes seconds for each.
_COMPILED_ROWS = (1, 256, 4096)
_COMPILED_WIDTHS = (3840, 15360)
# A sample is a graph of many calls, so few are enough.
_SECONDS_EACH = 0.03


def main(library: str, seconds: float, *, experiments: bool) -> None:
    """Measures for as long as it may, the shapes of Gemma 3's layers first, and says what there was no time
    for.
    """
    load(library)
    ends = time.monotonic() + seconds
    results, left_out = [], []
    for name, make_case, beside in _experiments() if experiments else _all_cases():
        if time.monotonic() > ends:
            left_out.append(name)
            continue
        try:
            results.append(_measured(name, make_case, beside))
        except RuntimeError as error:  # of the device: out of memory, a kernel that fails
            results.append({"case": name, "failed": str(error).splitlines()[0]})
    say(
        {
            "ok": not any("failed" in result for result in results),
            "results": results,
            "left_out": left_out,
            "l2_bytes": torch.cuda.get_device_properties().L2_cache_size,
        }
    )


def _measured(name: str, make_case: Callable[[], cases.Case], beside: str) -> dict[str, Any]:
    def make() -> cases.Case:
        case = make_case()
        functions: dict[str, cases.Function] = {}
        functions |= {key: case.functions[key] for key in ("octet", "copy", "apart") if key in case.functions}
        if beside == "stock":
            functions |= _stock(case)
        elif beside == "compiled":
            functions["compiled"] = gpu.as_compiled(case.functions["eager"])
        return dataclasses.replace(case, functions=functions)

    case, timings = gpu.measure(make, _SECONDS_EACH)
    l2_bytes = torch.cuda.get_device_properties().L2_cache_size
    microseconds = {key: timing.median * 1e6 for key, timing in timings.items()}
    return {
        "case": name,
        "microseconds": microseconds,
        "bytes": case.bytes_moved,
        "gb_per_s": case.bytes_moved / timings["octet"].median / 1e9,
        "share_of_copy": microseconds["copy"] / microseconds["octet"],
        "cold": gpu.is_cold(case.bytes_moved, l2_bytes),
    }


def _stock(case: cases.Case) -> dict[str, Any]:
    """vLLM's kernel for the same, where vLLM is installed."""
    try:
        from octet.engine.vllm import compat

        stock = compat.kernels.stock_kernel(case.kernel, case.rows, int(case.shape))
    except ImportError:
        return {}
    return {} if stock is None else {"stock": stock}


def _all_cases() -> Iterator[tuple[str, Callable[[], cases.Case], str]]:
    """By name what makes the case, and what is measured beside it and a copy: "stock" or "compiled"."""
    for width in sorted(_WIDTHS, key=lambda width: width not in _COMPILED_WIDTHS):
        for rows in _ROWS:
            for kernel in cases.ROW_KERNELS:
                yield f"{kernel} {rows} x {width}", _case(kernel, rows, width), "stock"
    for width in _COMPILED_WIDTHS:
        for rows in _COMPILED_ROWS:
            for kernel in cases.ROW_KERNELS:
                name = f"{kernel} {rows} x {width}, beside torch.compile"
                yield name, _case(kernel, rows, width), "compiled"


def _experiments() -> Iterator[tuple[str, Callable[[], cases.Case], str]]:
    for kernel, rows, width in _EXPERIMENTS:
        yield f"{kernel} {rows} x {width}", _case(kernel, rows, width), ""


def _case(kernel: str, rows: int, width: int) -> Callable[[], cases.Case]:
    return next(cases.row_cases(kernel, [width], [rows], "cuda"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), experiments="--experiments" in sys.argv)
