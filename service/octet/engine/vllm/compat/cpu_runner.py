"""What runs the model in vLLM's workers on CPUs."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def use(runner: Callable[[], type[Any]] | None = None) -> None:
    """Makes CPU workers run models with the class that `runner` gives, a subclass of vLLM's, or with vLLM's.

    Either way a seeded request whose prompt is computed in parts no longer ends the engine: see
    `unfinished_prompts_draw_nothing`.
    """
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    stock = inspect.unwrap(WorkerWrapperBase.init_device)

    @functools.wraps(stock)
    def init_device(self: Any) -> None:
        from vllm.v1.worker import cpu_model_runner, cpu_worker

        unfinished_prompts_draw_nothing(cpu_model_runner.CPUModelRunner)
        if runner is not None:
            cpu_worker.CPUModelRunner = runner()
        stock(self)

    WorkerWrapperBase.init_device = init_device


def unfinished_prompts_draw_nothing(runner: type[Any]) -> None:
    """Makes a model runner of vLLM's sample nothing by seed for prompts that it has not computed yet.

    vLLM samples for every row of a step, throws away what comes of unfinished prompts, and takes back the
    random numbers that were drawn for them by the offset of their generators. Those of CPUs have none
    (`RuntimeError: CPU Generator does not use offset`), which would end the engine.
    """
    stock = inspect.unwrap(runner.sample_tokens)

    @functools.wraps(stock)
    def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _without_generators_of_unfinished(self):
            return stock(self, *args, **kwargs)

    runner.sample_tokens = sample_tokens


@contextmanager
def _without_generators_of_unfinished(runner: Any) -> Iterator[None]:
    batch = runner.input_batch
    unfinished = runner.discard_request_mask.np[: batch.num_reqs]
    held = {row: generator for row, generator in batch.generators.items() if unfinished[row]}
    for row in held:
        del batch.generators[row]
    try:
        yield
    finally:
        batch.generators.update(held)
