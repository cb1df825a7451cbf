"""Puts the scheduler and the runner that encode pictures in slices into vLLM."""

from typing import Any

from octet.engine.vllm import compat


def register() -> None:
    """Makes vLLM's engine core and its CPU workers use them."""
    compat.pictures.replace_scheduler(_scheduler)
    compat.cpu_runner.use(_runner)


# Imported only in the processes that use them: the front end does without.


def _scheduler() -> type[Any]:
    from octet.engine.vllm.inside.vision.scheduler import PictureScheduler

    return PictureScheduler


def _runner() -> type[Any]:
    from octet.engine.vllm.inside.vision.runner import PictureRunner

    return PictureRunner
