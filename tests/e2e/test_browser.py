"""clients/web in a real browser: pages ask through Envoy, and show answers as they come."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.browser import Page, browsing, serving
from tests.e2e.envoy import envoy
from tests.integration.processes import ROOT, Process, server_process

KEY = "secret"


@dataclass
class Shown:
    """The page, and the server that it asks."""

    page: Page
    server: Process

    async def ask(self, question: str, key: str = KEY) -> None:
        """Fills the form in, and sends it."""
        for name, value in (("question", question), ("key", key)):
            await self.page.evaluate(f"document.getElementById('{name}').value = {json.dumps(value)}")
        await self.page.evaluate("document.getElementById('form').requestSubmit()")

    async def until(self, name: str, text: str) -> None:
        """Returns when an element shows a text."""
        await self.page.until(f"document.getElementById('{name}').textContent === {json.dumps(text)}")

    async def text(self, name: str) -> str:
        return str(await self.page.evaluate(f"document.getElementById('{name}').textContent"))


@pytest.fixture(params=["endless"])
async def shown(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shown]:
    async with AsyncExitStack() as stack:
        origin = stack.enter_context(serving(ROOT / "clients" / "web"))
        page = await stack.enter_async_context(browsing(f"{origin}/chat.html", tmp_path / "browser"))
        server = stack.enter_context(server_process(request.param, KEY))
        (tmp_path / "envoy").mkdir()
        port = int(server.target.rpartition(":")[2])
        proxy = envoy("http_json.yaml", [port], tmp_path / "envoy", origin=origin)
        address = await asyncio.to_thread(proxy.__enter__)
        stack.callback(proxy.__exit__, None, None, None)
        await page.evaluate(f"document.getElementById('url').value = 'http://{address}'")
        yield Shown(page, server)


async def test_an_answer_is_shown_as_it_comes(shown: Shown) -> None:
    await shown.ask("Go on.")
    await shown.until("answer", "first ")
    assert await shown.text("status") == "asking"
    shown.server.signal(signal.SIGUSR2)
    await shown.until("answer", "first last")
    await shown.until("status", "done")


async def test_who_stops_an_answer_stops_the_model(shown: Shown) -> None:
    await shown.ask("Go on.")
    await shown.until("answer", "first ")
    await shown.page.evaluate("document.getElementById('stop').click()")
    await shown.until("status", "stopped")
    await asyncio.wait_for(asyncio.to_thread(shown.server.read_log_until, r"StreamChat CANCELLED"), 30)


async def test_an_engine_that_dies_is_told_from_an_end(shown: Shown) -> None:
    await shown.ask("Go on.")
    await shown.until("answer", "first ")
    shown.server.signal(signal.SIGUSR1)
    await shown.until("status", "failed: the engine has died")


async def test_a_server_that_is_gone_is_told_from_an_end(shown: Shown) -> None:
    await shown.ask("Go on.")
    await shown.until("answer", "first ")
    shown.server.popen.kill()
    await shown.page.until("document.getElementById('status').textContent.startsWith('failed: ')")


@pytest.mark.parametrize("shown", ["echo"], indirect=True)
async def test_keys_and_texts_of_every_language(shown: Shown) -> None:
    await shown.ask("hi", key="wrong")
    await shown.until("status", "failed: the API key is wrong")
    await shown.ask("日本 <b>ü</b> 𝒳")
    await shown.until("status", "done")
    assert await shown.text("answer") == "日本 <b>ü</b> 𝒳 "
