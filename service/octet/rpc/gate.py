"""The gate between the calls and the engine: open while the engine is ready."""

from octet.engine.protocol import Engine
from octet.engine.types import ModelInfo, Service
from octet.errors import ServiceNotOfferedError, UnavailableError
from octet.translate.model import SERVICE_NAMES


class EngineGate:
    """Hands out the engine once it is warm, and refuses with the reason before and after."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._closed_by = UnavailableError("the model is still being loaded")

    def open(self, engine: Engine) -> None:
        """Lets calls through to `engine`."""
        self._engine = engine

    def close(self, error: UnavailableError) -> None:
        """Refuses all further calls with `error`."""
        self._engine = None
        self._closed_by = error

    def engine(self) -> Engine:
        """The engine.

        Raises:
            UnavailableError: while there is none to be had.
        """
        if self._engine is None:
            raise self._closed_by
        return self._engine

    def engine_for(self, service: Service) -> Engine:
        """The engine, if its model is for that.

        Raises:
            UnavailableError: while there is none to be had.
            ServiceNotOfferedError: its model is for something else.
        """
        engine = self.engine()
        if service not in engine.model.services:
            raise ServiceNotOfferedError(_wrong_service(engine.model, service))
        return engine


def _wrong_service(model: ModelInfo, service: Service) -> str:
    """Says why a model does not answer that, and what it is for."""
    name, offered = model.names[0], " and ".join(SERVICE_NAMES[other] for other in model.services)
    if Service.EMBEDDING in model.services:
        return f"{name} makes vectors of texts and writes none; call {offered}"
    if service is Service.EMBEDDING:
        return (
            f"{name} writes texts and makes no vectors of them; call {offered}, or serve a model that embeds"
        )
    return (
        f"{name} has no chat template, as base models have none; call {offered} with a prompt of your own, "
        "or start the server with --chat-template"
    )
