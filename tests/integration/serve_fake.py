"""`octet serve` around a scripted engine, as a process.

    python -m tests.integration.serve_fake SCRIPT [KEY] [SETTING=JSON]...

SIGUSR1 kills the engine; SIGUSR2 lets the "endless" script end its answers.
"""

import asyncio
import json
import signal
import sys
import threading
from typing import Any

from octet.cli.serve import serve_engine
from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.errors import EngineDeadError, StartupError
from tests.integration.fake_engine import Endless, FakeEngine, Script, call_tool, echo, flood, use_tool


class Stuck(FakeEngine):
    """Its processes do not end until they are killed."""

    killed = threading.Event()

    def close(self) -> None:
        print("closing", file=sys.stderr, flush=True)
        self.killed.wait()
        print("closed", file=sys.stderr, flush=True)

    def kill(self) -> None:
        self.killed.set()


def _never_ends(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
    threading.Event().wait()


async def start() -> Engine:
    if sys.argv[1] == "no-such-model":
        raise StartupError("no such model: nowhere")
    if sys.argv[1] == "loading":
        child = await asyncio.create_subprocess_exec("sleep", "600")
        print("loading in", child.pid, file=sys.stderr, flush=True)
        try:
            await child.wait()
        finally:
            # As an engine's start that is cancelled ends its processes.
            child.kill()
    if sys.argv[1] == "importing":
        await asyncio.to_thread(_never_ends, "importing")
    endless = Endless()
    scripts: dict[str, Script] = {
        "endless": endless,
        "echo": echo,
        "flood": flood,
        "call_tool": call_tool,
        "use_tool": use_tool,
        "stuck": echo,
    }
    engine = (Stuck if sys.argv[1] == "stuck" else FakeEngine)(scripts[sys.argv[1]])

    def die() -> None:
        engine.death = EngineDeadError("the engine has died")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, die)
    loop.add_signal_handler(signal.SIGUSR2, endless.release.set)
    return engine


if __name__ == "__main__":
    settings: dict[str, Any] = {"port": 0, "grace_seconds": 0}
    for argument in sys.argv[2:]:
        name, given, value = argument.partition("=")
        settings |= {name: json.loads(value)} if given else {"api_key": argument}
    serve_engine(ServerConfig(**settings), start)
