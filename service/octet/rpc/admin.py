"""AdminService: LoRA adapters, loaded and dropped while the server runs."""

import asyncio
import logging
from typing import TypeAlias

import grpc

from octet.rpc import call
from octet.rpc.adapter_root import find_adapter
from octet.rpc.gate import EngineGate
from octet.telemetry.metrics import Metrics
from octet.translate.admin import to_adapter_name, to_adapter_path
from octet.v1 import admin_service_pb2, admin_service_pb2_grpc

logger = logging.getLogger("octet")

# Quoted: the class takes type arguments in its stub only.
LoadContext: TypeAlias = (
    "grpc.aio.ServicerContext[admin_service_pb2.LoadAdapterRequest, admin_service_pb2.LoadAdapterResponse]"
)
UnloadContext: TypeAlias = (
    "grpc.aio.ServicerContext"
    "[admin_service_pb2.UnloadAdapterRequest, admin_service_pb2.UnloadAdapterResponse]"
)


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """Changes what the engine serves; says in the log who had what changed.

    Args:
        gate: gives the engine.
        root: the directory below which adapters lie.
        metrics: count the adapters.
    """

    def __init__(self, gate: EngineGate, root: str, metrics: Metrics) -> None:
        self._gate = gate
        self._root = root
        self._metrics = metrics

    async def LoadAdapter(
        self, request: admin_service_pb2.LoadAdapterRequest, context: LoadContext
    ) -> admin_service_pb2.LoadAdapterResponse:
        """Loads an adapter."""
        engine = self._gate.engine()
        name, path = to_adapter_name(request.name), to_adapter_path(request)
        folder = await asyncio.to_thread(find_adapter, self._root, path)
        caller = call.caller.get()

        async def load() -> bool:
            loaded = await engine.load_adapter(name, folder, replace=request.replace)
            self._metrics.adapters.set(len(engine.model.adapters))
            if loaded:
                logger.info("%s has loaded the adapter %s from %s", caller, name, path)
            return loaded

        # A half of it would be nobody's.
        loaded = await asyncio.shield(load())
        return admin_service_pb2.LoadAdapterResponse(adapters=engine.model.adapters, loaded=loaded)

    async def UnloadAdapter(
        self, request: admin_service_pb2.UnloadAdapterRequest, context: UnloadContext
    ) -> admin_service_pb2.UnloadAdapterResponse:
        """Drops an adapter."""
        engine = self._gate.engine()
        name, caller = to_adapter_name(request.name), call.caller.get()

        async def unload() -> int | None:
            running = await engine.unload_adapter(name)
            self._metrics.adapters.set(len(engine.model.adapters))
            if running is not None:
                logger.info("%s has dropped the adapter %s; %d requests run on it", caller, name, running)
            return running

        running = await asyncio.shield(unload())
        return admin_service_pb2.UnloadAdapterResponse(
            adapters=engine.model.adapters, unloaded=running is not None, running_requests=running or 0
        )
