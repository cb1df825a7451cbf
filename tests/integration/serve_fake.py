"""`octet serve` around a scripted engine, as a process.

    python -m tests.integration.serve_fake SCRIPT [KEY] [SETTING=JSON]...

SIGUSR1 kills the engine; SIGUSR2 lets the "endless" script end its answers.
"""

import asyncio
import json
import signal
import sys
from typing import Any

from octet.cli.serve import serve_engine
from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.errors import EngineDeadError, StartupError
from tests.integration.fake_engine import Endless, FakeEngine, Script, call_tool, echo, flood, use_tool


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
    endless = Endless()
    scripts: dict[str, Script] = {
        "endless": endless,
        "echo": echo,
        "flood": flood,
        "call_tool": call_tool,
        "use_tool": use_tool,
    }
    engine = FakeEngine(scripts[sys.argv[1]])

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
