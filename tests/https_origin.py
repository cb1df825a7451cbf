"""A real HTTPS server on this machine that pictures are fetched from."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trustme
from aiohttp import web

HOST, OTHER, UNLISTED = "images.test", "other.test", "unlisted.test"
"""Names that its certificate holds; tests make them lead to this machine."""


class Origin:
    """Answers as a test says; knows what it was asked, and whether a client has gone away."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.dropped = asyncio.Event()
        self.port = 0

    def answer(self, path: str, **response: Any) -> str:
        """Gives what `web.Response` makes of the arguments; returns the URI."""

        async def respond(_: web.Request) -> web.Response:
            return web.Response(**response)

        self.answers[path] = respond
        return self.uri(path)

    def hang(self, path: str) -> asyncio.Event:
        """Never answers; the event tells that it was asked."""
        asked = asyncio.Event()

        async def never(_: web.Request) -> web.StreamResponse:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        self.answers[path] = never
        return asked

    def uri(self, path: str, host: str = HOST) -> str:
        return f"https://{host}:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.headers.append(dict(request.headers))
        try:
            return await self.answers[request.path](request)
        except asyncio.CancelledError:
            self.dropped.set()
            raise


@asynccontextmanager
async def serve_origin(authority: trustme.CA) -> AsyncIterator[Origin]:
    origin = Origin()
    app = web.Application()
    app.router.add_get("/{path:.*}", origin.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, OTHER, UNLISTED, "127.0.0.1", "localhost").configure_cert(context)
    await web.TCPSite(runner, "0.0.0.0", 0, ssl_context=context).start()
    origin.port = runner.addresses[0][1]
    yield origin
    await runner.cleanup()
