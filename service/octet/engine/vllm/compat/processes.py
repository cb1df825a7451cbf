"""How vLLM starts the processes of an engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext


def start_in(context: BaseContext) -> None:
    """Makes vLLM start the engine core and its workers in a context of `multiprocessing`, in this process."""
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    utils.get_mp_context = lambda: context
    multiproc_executor.get_mp_context = lambda: context


@contextmanager
def started_in(context: BaseContext) -> Iterator[None]:
    """The same, for what is started inside."""
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    stock = utils.get_mp_context
    start_in(context)
    try:
        yield
    finally:
        utils.get_mp_context = stock
        multiproc_executor.get_mp_context = stock
