"""Waits for what the server logs."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Handler(logging.Handler):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self._loop = asyncio.get_running_loop()
        self.found: asyncio.Future[str] = self._loop.create_future()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self._loop.call_soon_threadsafe(self._find, record.getMessage())

    def _find(self, message: str) -> None:
        if not self.found.done():
            self.found.set_result(message)


@contextmanager
def logged(text: str) -> Iterator[asyncio.Future[str]]:
    """The first message with `text` in it that Octet logs inside of the context, from any thread."""
    logger = logging.getLogger("octet")
    level, handler = logger.level, _Handler(text)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield handler.found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
