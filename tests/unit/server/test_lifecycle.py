"""What the serving process does around the server."""

import asyncio
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

import pytest

from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.errors import StartupError
from octet.server.lifecycle import run


def blocked_signals() -> set[signal.Signals | int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


async def test_ctrl_c_does_not_reach_the_engines_processes() -> None:
    def in_child() -> set[signal.Signals | int]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as children:
            return children.submit(blocked_signals).result(60)

    async def start_engine() -> Engine:
        blocked = await asyncio.to_thread(in_child)
        raise StartupError("blocked: " + ", ".join(signal.Signals(number).name for number in blocked))

    with pytest.raises(StartupError, match=r"blocked: SIGINT$"):
        await run(ServerConfig(port=0), start_engine)
    assert blocked_signals() == set()
