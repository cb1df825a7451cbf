"""`octet serve` around a scripted engine, as a process:

    python -m tests.integration.serve_fake SCRIPT [KEY [GRACE_SECONDS]]

SIGUSR1 kills the engine; SIGUSR2 lets the "endless" script end its answers.
"""

import asyncio
import signal
import sys

from octet.cli.serve import serve_engine
from octet.config import ServerConfig
from octet.engine.protocol import Engine
from octet.errors import EngineDeadError, StartupError
from tests.integration.fake_engine import Endless, FakeEngine, Script, call_tool, echo, use_tool


async def start() -> Engine:
    if sys.argv[1] == "no-such-model":
        raise StartupError("no such model: nowhere")
    if sys.argv[1] == "loading":
        child = await asyncio.create_subprocess_exec("sleep", "600")
        print("loading in", child.pid, file=sys.stderr, flush=True)
        await child.wait()
    endless = Endless()
    scripts: dict[str, Script] = {
        "endless": endless,
        "echo": echo,
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
    key = sys.argv[2] if len(sys.argv) > 2 else ""
    grace = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    serve_engine(ServerConfig(port=0, api_key=key or None, grace_seconds=grace), start)
