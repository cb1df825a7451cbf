"""The gate between the calls and the engine: open while the engine is ready."""

from octet.engine.protocol import Engine
from octet.errors import UnavailableError


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
