"""How large an engine's caches are where nobody says it: no larger than what memory is free can hold."""

import logging
import os
from typing import TYPE_CHECKING

from octet.config.memory import available_memory
from octet.engine.vllm.launch import parallel
from octet.weight_files import find_folder, weight_files
from octet.weight_index import CheckpointError

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

logger = logging.getLogger(__name__)

GIB = 1024**3

# Flags that say how large the KV cache is to be, by their names in AsyncEngineArgs.
_KV_CACHE_FLAGS = ("kv_cache_memory_bytes", "gpu_memory_utilization", "num_gpu_blocks_override")

_MOST_KV_CACHE = 4 * GIB
_KV_CACHE_SHARE = 4

# vLLM's own default, which it takes of any machine; some hundred of Gemma 3's pictures fit into each GiB.
_MOST_PICTURES = 4 * GIB
_PICTURES_SHARE = 16
_LEAST_PICTURES = GIB // 8
_PICTURES_OF_MANY = GIB
# One in the engine core; one in the server, of pictures that are only counted, or that gateways send.
_PICTURE_CACHES = 2


def pictures_gib(machines: int) -> float:
    """GiB for pictures as the model's processor has made them, kept to be seen again; of each such cache.

    A cache fills up with each picture that has not come before, and is full for ever then. vLLM's
    --mm-processor-cache-gb says another size; 0 keeps none.

    Args:
        machines: how many the engine runs on. Of several, all have to choose the same.
    """
    if machines > 1:
        return _PICTURES_OF_MANY / GIB
    size = min(_MOST_PICTURES, max(_LEAST_PICTURES, available_memory() // _PICTURES_SHARE))
    return round(size / GIB, 2)


def choose(engine: "AsyncEngineArgs") -> None:
    """On a CPU, takes a KV cache that fits beside weights and pictures where the user named no size.

    vLLM would claim nearly all of the machine's memory, and refuse to start when somebody else uses some.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        return
    defaults = type(engine).__dataclass_fields__
    if any(getattr(engine, name) != defaults[name].default for name in _KV_CACHE_FLAGS):
        return
    free, ranks = available_memory(), parallel.local_ranks(engine)
    weights = weight_bytes(engine.model)
    if weights > free:
        logger.warning("the weights are %.1f GiB, and %.1f GiB of memory are free", weights / GIB, free / GIB)
    pictures = _PICTURE_CACHES * engine.mm_processor_cache_gb * GIB
    engine.kv_cache_memory_bytes = kv_cache_bytes(free, weights, pictures, ranks)
    logger.info(
        "KV cache: %.1f GiB%s of %.1f GiB free memory; --kv-cache-memory-bytes sets another size",
        engine.kv_cache_memory_bytes / GIB,
        f" for each of {ranks} ranks" if ranks > 1 else "",
        free / GIB,
    )


def kv_cache_bytes(free: int, weights: int, pictures: float, ranks: int) -> int:
    """Bytes for the KV cache of each rank.

    Args:
        free: memory that is free, in bytes.
        weights: what the weights of all ranks take of it.
        pictures: what caches of pictures may take of it.
        ranks: how many share the memory.
    """
    most = free // _KV_CACHE_SHARE
    # The other half is for what steps compute. Where there is none, vLLM says which context would fit.
    beside = int(free - weights - pictures) // 2
    return min(_MOST_KV_CACHE, min(most, max(beside, most // 8)) // ranks)


def weight_bytes(model: str) -> int:
    """What a model's weights take; 0 where that is not known, as of a model that is still to be fetched."""
    try:
        return sum(file.stat().st_size for file in weight_files(find_folder(model)))
    except (CheckpointError, OSError):
        return 0
