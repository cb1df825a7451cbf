"""One model over several ranks: how many there are, and what vLLM cannot do with them.

The ranks themselves, their processes and what they say to one another are vLLM's.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from octet.errors import StartupError

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs


# What makes more than one rank, under all of its names.
_FLAGS = re.compile(r"--?(?:tp|pp|dp|(?:tensor|pipeline|data)[-_]parallel[-_]size)(?:=(?P<value>.*))?")


def ranks_named(argv: Sequence[str]) -> int:
    """How many workers a command line asks for, as far as its flags say so to somebody who knows no vLLM."""
    ranks = 1
    for flag, following in pairwise([*argv, ""]):
        if (named := _FLAGS.fullmatch(flag)) is not None:
            value = named["value"] or following
            ranks = max(ranks, int(value) if value.isdecimal() else 1)
    return ranks


def local_ranks(engine: "AsyncEngineArgs") -> int:
    """How many workers the engine will start on this machine."""
    ranks: int = engine.tensor_parallel_size * engine.pipeline_parallel_size // max(1, engine.nnodes)
    replicas: int = engine.data_parallel_size_local or engine.data_parallel_size
    return max(1, ranks) * max(1, replicas)


def check(engine: "AsyncEngineArgs") -> None:
    """Raises StartupError, which names the flag, for what would end in an engine that dies."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and engine.distributed_executor_backend == "ray":
        raise StartupError(
            "--distributed-executor-backend: on CPUs vLLM does not run over ray; leave it out, and use "
            "--nnodes for several machines"
        )
    if current_platform.is_cpu() and engine.pipeline_parallel_size > 1 and engine.enforce_eager:
        # Later stages have no buffers for what earlier ones send; the first request would end the engine.
        raise StartupError(
            "--pipeline-parallel-size: vLLM on CPUs cannot run pipeline stages eagerly (--enforce-eager, or "
            "no C++ compiler); use --tensor-parallel-size"
        )


def limit_waiting(engine: "AsyncEngineArgs", seconds: float) -> None:
    """Has ranks that wait for each other over torch, in their start and at work, give up after `seconds`.

    torch would wait half an hour. What the user has set stays.
    """
    limit = math.ceil(seconds)
    if engine.distributed_timeout_seconds is None:
        engine.distributed_timeout_seconds = limit
    if engine.cpu_distributed_timeout_seconds is None:
        engine.cpu_distributed_timeout_seconds = limit
