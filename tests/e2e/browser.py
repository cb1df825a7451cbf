"""A real browser without a window, driven over its DevTools protocol."""

import asyncio
import http.server
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

_PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


class Page:
    """A page that a browser shows."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, in the page; of a promise, what it comes to.

        Raises:
            AssertionError: it has thrown.
        """
        self._calls += 1
        parameters = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        await self._socket.send_json({"id": self._calls, "method": "Runtime.evaluate", "params": parameters})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == self._calls:
                result = answer["result"]
                assert "exceptionDetails" not in result, result
                return result["result"].get("value")

    async def until(self, condition: str) -> None:
        """Returns when a condition holds in the page, which is looked at with every frame that it draws."""
        look = f"() => ({condition}) ? resolve() : setTimeout(look, 10)"
        await asyncio.wait_for(
            self.evaluate(f"new Promise((resolve) => {{ const look = {look}; look(); }})"), 60
        )


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The origin of a server of a folder's files."""
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@asynccontextmanager
async def browsing(url: str, folder: Path) -> AsyncIterator[Page]:
    """A page that a browser has loaded. Skips where there is no browser.

    Args:
        url: the page's.
        folder: an empty one, for the browser's files.
    """
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("no browser (Debian: chromium-headless-shell)")
    # Its sandbox wants privileges that containers do not give; it loads nothing but our own page.
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    browser = await asyncio.create_subprocess_exec(
        *(program, *flags, f"--user-data-dir={folder}", "--remote-debugging-port=0", url),
        stderr=asyncio.subprocess.PIPE,
        # Its own processes end with it.
        start_new_session=True,
    )
    try:
        assert browser.stderr is not None
        async for line in browser.stderr:
            if b"DevTools listening on" in line:
                break
        else:
            raise AssertionError("the browser has ended")
        address = line.split(b"ws://")[1].split(b"/")[0].decode()
        draining = asyncio.ensure_future(browser.stderr.read())
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{address}/json/list") as answer:
                [page] = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"]) as socket:
                shown = Page(socket)
                await shown.until("document.readyState === 'complete'")
                yield shown
        draining.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(browser.pid, signal.SIGKILL)
        await browser.wait()
