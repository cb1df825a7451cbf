"""The C++ kernels that Inductor, torch's compiler, makes on CPUs: how many threads one gets."""

import functools
import inspect
import os
from typing import Any

# Elements that a thread should find; below, waking it takes longer than what it does. The same as of Octet's
# own kernels.
_ELEMENTS_PER_THREAD = 1 << 15

# torch's own variable for a number of that kind.
_VARIABLE = "TORCHINDUCTOR_CPP_MIN_CHUNK_SIZE"


def wake_threads_for_work_only() -> int:
    """Makes what a worker of vLLM's compiles wake a team of threads only where there is work for two.

    A compiled model takes any number of tokens, and each of its kernels shares its loop among all threads,
    always: for one token, that takes many times as long as the loop. How many elements there are is known
    when the kernel runs, and OpenMP has a clause for it.

    Returns:
        The number of elements of a thread, on which compiled models depend.
    """
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    stock = inspect.unwrap(WorkerWrapperBase.initialize_from_config)

    @functools.wraps(stock)
    def initialize_from_config(self: Any, *args: Any, **kwargs: Any) -> None:
        from vllm.config import CompilationMode

        # The last step before the model is compiled. Importing the compiler takes a second.
        if self.vllm_config.compilation_config.mode != CompilationMode.NONE:
            add_conditions(_elements_per_thread())
        stock(self, *args, **kwargs)

    WorkerWrapperBase.initialize_from_config = initialize_from_config
    return _elements_per_thread()


def add_conditions(elements: int) -> None:
    """Gives the parallel regions that Inductor writes from now on a condition: `elements` for two threads.

    It becomes torch's setting, too, which Inductor's own caches of kernels go by.
    """
    from torch._inductor import config
    from torch._inductor.codegen import cpp as generator
    from torch._inductor.utils import sympy_product

    cpp: Any = generator

    config.cpp.min_chunk_size = elements
    write_loops = inspect.unwrap(cpp.CppKernelProxy.codegen_loops_impl)
    open_region = inspect.unwrap(cpp.WorkSharing.parallel)

    @functools.wraps(write_loops)
    def codegen_loops_impl(self: Any, loop_nest: Any, code: Any, worksharing: Any) -> None:
        size = sympy_product(self.call_ranges)
        worksharing.octet_size = cpp.cexpr(self.rename_indexing(size))
        write_loops(self, loop_nest, code, worksharing)

    @functools.wraps(open_region)
    def parallel(self: Any, threads: int) -> None:
        lines = self.code.get_lines_ref()
        before = len(lines)
        open_region(self, threads)
        if len(lines) > before:
            self.octet_sizes = []
            lines[before] = _conditional(lines[before], self.octet_sizes, 2 * elements)
        self.octet_sizes.append(self.octet_size)

    cpp.CppKernelProxy.codegen_loops_impl = codegen_loops_impl
    cpp.WorkSharing.parallel = parallel


def _elements_per_thread() -> int:
    return int(os.environ.get(_VARIABLE, _ELEMENTS_PER_THREAD))


def _conditional(pragma: str, sizes: list[str], least: int) -> Any:
    """The line that opens a region, with a condition on all loops in it: more may follow in the same one."""
    from torch._inductor.utils import DeferredLineBase

    assert "#pragma omp parallel" in pragma

    class Conditional(DeferredLineBase):
        def __call__(self) -> str:
            return f"{self.line} if ({' + '.join(sizes)} >= {least})"

        def _new_line(self, line: str) -> "Conditional":
            return Conditional(line)

    return Conditional(pragma)
