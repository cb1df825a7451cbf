"""How vLLM starts the processes of an engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext


@contextmanager
def core_started_in(context: BaseContext) -> Iterator[None]:
    """Makes vLLM start an engine core in a context of `multiprocessing`; workers are started as ever."""
    from vllm.v1.engine import utils

    stock = utils.get_mp_context
    utils.get_mp_context = lambda: context
    try:
        yield
    finally:
        utils.get_mp_context = stock
