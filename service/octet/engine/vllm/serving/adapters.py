"""LoRA adapters, loaded when the engine starts or while it serves, and named by requests."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from octet.engine.vllm.launch.args import one_line
from octet.engine.vllm.serving.adapter_files import BaseModel
from octet.errors import (
    AdapterExistsError,
    AdapterLimitError,
    AdapterNotFoundError,
    InvalidRequestError,
    StartupError,
)

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


@dataclass(eq=False, slots=True)
class Adapter:
    """An adapter in the engine.

    Attributes:
        request: what vLLM knows it by.
        running: requests that run on it.
        dropped: whether no other may.
    """

    request: "LoRARequest"
    running: int = 0
    dropped: bool = False


class Adapters:
    """The adapters that requests may name, and dropped ones that some still run on.

    vLLM reads an adapter's files again when it has put it out of its cache, and an engine that does not find
    them then ends. So no more are loaded here than the cache holds, and none is taken from a request.

    Args:
        llm: the engine.
        paths: the adapters of its start, already loaded.
    """

    def __init__(self, llm: "AsyncLLM", paths: Mapping[str, str]) -> None:
        config = llm.vllm_config
        self._llm = llm
        self._named = {name: Adapter(request) for name, request in requests(paths).items()}
        self._inside = set(self._named.values())
        self._next_id = len(self._named) + 1
        self._limit = config.lora_config.max_cpu_loras or 0 if config.lora_config else 0
        self._max_rank = config.lora_config.max_lora_rank if config.lora_config else 0
        self._base = BaseModel(config.model_config.model)
        self._lock = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may name."""
        return tuple(self._named)

    def take(self, name: str) -> Adapter | None:
        """The adapter, for a request that runs on it until `give_back`; None where it names none.

        Raises:
            AdapterNotFoundError: it is not there any more.
        """
        if not name:
            return None
        adapter = self._named.get(name)
        if adapter is None:
            raise AdapterNotFoundError(f"the adapter {name!r} is not loaded here any more")
        adapter.running += 1
        return adapter

    def give_back(self, adapter: Adapter | None) -> None:
        """The request has ended."""
        if adapter is None:
            return
        adapter.running -= 1
        if adapter.dropped and not adapter.running:
            leaving = asyncio.ensure_future(self._remove(adapter))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def load(self, name: str, folder: Path, *, replace: bool) -> bool:
        """Loads an adapter; see `octet.engine.protocol.Engine.load_adapter`."""
        async with self._lock:
            known = self._named.get(name)
            if known is not None and not replace:
                if known.request.lora_path == str(folder):
                    return False
                raise AdapterExistsError(f"another adapter has the name {name!r}; set replace, or unload it")
            if len(self._inside) >= self._limit:
                raise AdapterLimitError(
                    f"{len(self._inside)} adapters are loaded, dropped ones that requests still run on "
                    f"included, and the server holds {self._limit} (--max-cpu-loras); unload one"
                )
            await asyncio.to_thread(self._base.check, folder, self._max_rank)
            adapter = await self._add(name, folder)
            self._named[name] = adapter
            if known is not None:
                await self._drop(known)
            return True

    async def unload(self, name: str) -> int | None:
        """Drops an adapter; see `octet.engine.protocol.Engine.unload_adapter`."""
        async with self._lock:
            adapter = self._named.pop(name, None)
            return None if adapter is None else await self._drop(adapter)

    async def _add(self, name: str, folder: Path) -> Adapter:
        from vllm.lora.request import LoRARequest

        number, self._next_id = self._next_id, self._next_id + 1
        # vLLM tells adapters, and what it has cached of prompts with them, apart by their names.
        request = LoRARequest(f"{name}@{number}", number, str(folder))
        try:
            loaded, problem = await self._llm.add_lora(request), "vLLM does not take it"
        except Exception as error:
            # vLLM raises whatever the worker did, mostly as a bare Exception.
            if self._llm.errored:
                raise
            loaded, problem = False, one_line(error)
        if not loaded:
            with contextlib.suppress(Exception):
                # It may have come half the way.
                await self._llm.remove_lora(number)
            raise InvalidRequestError("path", f"names an adapter that cannot be loaded: {problem}")
        adapter = Adapter(request)
        self._inside.add(adapter)
        return adapter

    async def _drop(self, adapter: Adapter) -> int:
        """Lets no other request run on it; returns how many do."""
        adapter.dropped = True
        if not adapter.running:
            await self._remove(adapter)
        return adapter.running

    async def _remove(self, adapter: Adapter) -> None:
        with contextlib.suppress(Exception):
            # The engine may end meanwhile.
            await self._llm.remove_lora(adapter.request.lora_int_id)
        self._inside.discard(adapter)
