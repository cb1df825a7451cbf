"""Times kernels on a GPU.

A sample is a graph of many calls, each on memory of its own, so that neither launching nor the L2 cache is
measured instead of the kernel.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from octet.bench.timing import Timing

if TYPE_CHECKING:
    from octet.bench.cases import Case, Function

# A graph has enough calls to move twice what the L2 cache holds, within these bounds.
_LEAST_CALLS = 4
_MOST_CALLS = 4096
_WARM_UP = 3
_LEAST_SAMPLES = 5
_MOST_SAMPLES = 200


def calls_in_graph(bytes_moved: int, l2_bytes: int) -> int:
    """How many calls that move as many bytes each a graph holds."""
    return min(max(math.ceil(2 * l2_bytes / max(bytes_moved, 1)), _LEAST_CALLS), _MOST_CALLS)


def is_cold(bytes_moved: int, l2_bytes: int) -> bool:
    """Whether such a graph's calls find nothing of what they read in the L2 cache: whether it moves twice as
    much.
    """
    return calls_in_graph(bytes_moved, l2_bytes) * bytes_moved >= 2 * l2_bytes


def measure(make_case: "Callable[[], Case]", seconds: float) -> "tuple[Case, dict[str, Timing]]":
    """Measures what a case compares in turns.

    Args:
        make_case: makes the case anew, on the current GPU, with memory of its own.
        seconds: for each function.

    Returns:
        The case, and the seconds of one call by function. A function that does not fit into the memory, or
        that cannot be captured, is left out.
    """
    # Each shape is compiled by itself, and there is a limit to how many a function may have.
    torch.compiler.reset()
    first = make_case()
    l2_bytes = torch.cuda.get_device_properties().L2_cache_size
    calls = calls_in_graph(first.bytes_moved, l2_bytes)
    cases = [first, *(make_case() for _ in range(calls - 1))]
    graphs = {}
    for name in first.functions:
        try:
            graphs[name] = _graph([case.functions[name] for case in cases])
        except RuntimeError:  # torch.OutOfMemoryError is one, and what cannot be captured raises another
            torch.cuda.empty_cache()
            if name == "octet":
                raise
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(_MOST_SAMPLES):
        for name, (graph, _) in graphs.items():
            if turn < _LEAST_SAMPLES or sum(samples[name]) * calls < seconds:
                samples[name].append(_replay(graph) / calls)
    timings = {name: Timing.of(measured) for name, measured in samples.items()}
    del graphs
    torch.cuda.empty_cache()
    return first, timings


def as_compiled(eager: "Function") -> "Function":
    """A partial of a chain of torch's operators, with the chain as torch.compile makes it."""
    if not isinstance(eager, functools.partial):
        raise TypeError(f"{eager} is no partial, and would be compiled anew for each copy of its tensors")
    return functools.partial(_compiled(eager.func), *eager.args)


@functools.cache
def _compiled(chain: "Function") -> "Function":
    # A dynamic shape would be another kernel than the one that vLLM compiles for a size it captures.
    function: Function = torch.compile(chain, dynamic=False)
    return function


def _graph(functions: "list[Function]") -> tuple[torch.cuda.CUDAGraph, list[object]]:
    """A graph that calls each once, and the results, whose memory it writes to."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for function in functions[:_WARM_UP]:
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [function() for function in functions]
    graph.replay()
    torch.cuda.synchronize()
    return graph, results


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    """Seconds that the GPU takes for the graph."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1e3
