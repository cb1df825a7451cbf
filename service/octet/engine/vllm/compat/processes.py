"""How vLLM starts the processes of an engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext


@contextmanager
def core_started_in(context: BaseContext) -> Iterator[None]:
    """Makes vLLM start an engine core in a context of `multiprocessing`."""
    from vllm.v1.engine import utils

    stock = utils.get_mp_context
    utils.get_mp_context = lambda: context
    try:
        yield
    finally:
        utils.get_mp_context = stock


def start_workers_in(context: BaseContext) -> None:
    """Makes the engine core that this process is start its workers in a context of `multiprocessing`."""
    from vllm.v1.executor import multiproc_executor

    multiproc_executor.get_mp_context = lambda: context


def end_core_without_collecting() -> None:
    """Keeps the engine core that this process is from looking at every object that it has before it ends.

    On CPUs there is nothing to give back by that, and it takes seconds: most objects lie in pages that the
    process has from its fork server, and has to copy to count them.
    """
    from vllm.distributed import parallel_state
    from vllm.v1.engine import core

    def clean_up() -> None:
        parallel_state.destroy_model_parallel()
        parallel_state.destroy_distributed_environment()

    core.cleanup_dist_env_and_memory = clean_up
