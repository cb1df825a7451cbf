"""What vLLM's layers need to be built outside of an engine: a group of processes with this one in it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_rank() -> Iterator[None]:
    """This process as vLLM's only rank, for as long as the context lasts; layers ask which rank they are."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import (
        destroy_distributed_environment,
        destroy_model_parallel,
        init_distributed_environment,
        initialize_model_parallel,
    )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, address, 0, "gloo")
        initialize_model_parallel(1)
    yield
    destroy_model_parallel()
    destroy_distributed_environment()
