"""What Inductor compiles on CPUs wakes a team of threads only where there is work for two."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

LEAST = 1000


@pytest.fixture
def conditions() -> Iterator[None]:
    """Inductor with conditions for LEAST elements a thread, put back afterwards."""
    from torch._inductor import config
    from torch._inductor.codegen import cpp

    from octet.engine.vllm.compat import inductor

    before = config.cpp.min_chunk_size
    inductor.add_conditions(LEAST)
    inductor.add_conditions(LEAST)  # again, as in a process in which plugins are loaded twice
    with config.patch({"cpp.dynamic_threads": True, "fx_graph_cache": False}):
        yield
    config.cpp.min_chunk_size = before
    cpp.CppKernelProxy.codegen_loops_impl = inspect.unwrap(cpp.CppKernelProxy.codegen_loops_impl)
    cpp.WorkSharing.parallel = inspect.unwrap(cpp.WorkSharing.parallel)


def normalize(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A reduction of each row with an elementwise end, and a loop beside it."""
    return x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6), y.sin() + 1.0


def compiled_code(function: Any, *inputs: torch.Tensor) -> str:
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    out, codes = run_and_get_code(torch.compile(function, dynamic=True), *inputs)
    for ours, theirs in zip(out, function(*inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
    return "\n".join(codes)


@pytest.mark.usefixtures("conditions")
def test_every_region_has_a_condition_on_the_elements_in_it() -> None:
    code = compiled_code(normalize, torch.randn(5, 96), torch.randn(5, 64))
    regions = re.findall(r"#pragma omp parallel(?! for)(.*)", code)
    assert regions
    for region in regions:
        assert re.search(rf" if \(.*ks\d.* >= {2 * LEAST}\)$", region), region
    assert any(" + " in region for region in regions), "loops in one region count together"


@pytest.mark.usefixtures("conditions")
def test_a_reduction_over_everything_is_right_on_one_thread_and_on_many() -> None:
    def total(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.sum(), x.amax()

    torch._dynamo.reset()
    compiled = torch.compile(total, dynamic=True)
    for rows in (2, 3, 70):
        x = torch.randn(rows, 96)
        for ours, theirs in zip(compiled(x), total(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_without_it_there_is_none() -> None:
    """Or the tests above would see what torch does by itself."""
    from torch._inductor import config

    with config.patch({"cpp.dynamic_threads": True, "fx_graph_cache": False}):
        code = compiled_code(normalize, torch.randn(5, 96), torch.randn(5, 64))
    assert "#pragma omp parallel" in code
    assert " if (" not in "".join(re.findall(r"#pragma omp parallel.*", code))
