"""`octet serve`, which on SIGUSR1 says in a line of its standard output what its event loop has to do."""

import asyncio
import json
import os
import signal
from collections import Counter

from octet.__main__ import main


def tell(*_: object) -> None:
    """Writes how many tasks there are, by what they run; the signal comes between two steps of the loop."""
    tasks = asyncio.all_tasks(asyncio.get_running_loop())
    named = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
    os.write(1, f"{json.dumps(named)}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell)
    main()
