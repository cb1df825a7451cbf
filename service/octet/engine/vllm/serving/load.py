"""How full the engine is, out of its own statistics."""

from typing import Any


class KvCacheUsage:
    """Keeps what the engine's schedulers last said of their KV caches; a factory of vLLM's stat loggers."""

    def __init__(self) -> None:
        self._usage: dict[int, float] = {}

    def latest(self) -> float | None:
        """Share of the blocks that hold running requests, 0 to 1, of the fullest; None before any step."""
        return max(self._usage.values(), default=None)

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> Any:
        """The logger of one of the engine's schedulers."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        usage = self._usage

        class Logger(StatLoggerBase):  # type: ignore[misc]
            def __init__(self) -> None: ...

            def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
                if scheduler_stats is not None:
                    usage[engine_index] = scheduler_stats.kv_cache_usage

            def log_engine_initialized(self) -> None: ...

        return Logger()
