"""How a machine that only computes notices that the one that serves is gone."""

import queue
import socket
import threading

from octet.engine.vllm.headless import _watch


def test_it_ends_with_the_connection() -> None:
    ends: queue.SimpleQueue[str] = queue.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_watch, args=(listener.getsockname(), ends), daemon=True).start()
        connection, _ = listener.accept()
        assert ends.empty()
        connection.close()
        assert ends.get(timeout=10) == "the machine that serves, 127.0.0.1, is gone"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    ends: queue.SimpleQueue[str] = queue.SimpleQueue()
    _watch(address, ends)
    assert ends.get_nowait() == "the machine that serves, 127.0.0.1, is gone"
