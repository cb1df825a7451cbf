"""LoRA adapters, loaded when the engine starts and named by requests."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from octet.engine.vllm.launch.args import one_line
from octet.errors import StartupError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM


def requests(paths: Mapping[str, str]) -> "dict[str, LoRARequest]":
    """What vLLM is told to answer with an adapter; `paths` are directories or hub ids by name."""
    from vllm.lora.request import LoRARequest

    return {name: LoRARequest(name, number, path) for number, (name, path) in enumerate(paths.items(), 1)}


async def load(llm: "AsyncLLM", paths: Mapping[str, str]) -> None:
    """Loads the adapters once; the engine keeps as many as --max-cpu-loras and loads others anew.

    Raises:
        StartupError: one cannot be loaded.
    """
    for name, request in requests(paths).items():
        try:
            await llm.add_lora(request)
        except Exception as error:
            # vLLM raises whatever the worker did, mostly as a bare Exception.
            raise StartupError(f"--lora-modules: {name} cannot be loaded: {one_line(error)}") from error
