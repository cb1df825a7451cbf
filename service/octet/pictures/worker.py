"""The process that decodes pictures for a server: `python -m octet.pictures.worker SOCKET PARENT`.

It takes one file after the other from its socket and gives each back in strips. What a file does to it, a
crash, too much memory, hours of work, it does to nobody else. It ends when its parent
does, however that ends.
"""

import contextlib
import ctypes
import os
import pickle
import resource
import signal
import socket
import struct
import sys

from octet.heap import return_large_blocks
from octet.pictures.decode import DecodeError, decode
from octet.pictures.plan import Plan
from octet.pictures.wire import LENGTHS, MEMORY, PICTURE, READY, REFUSED, STRIP, receive

_NICENESS = 5
"""Answers that are being generated go first; a picture that nobody else competes with loses nothing."""

_SLACK_BYTES = 64 * 2**20
"""Of address space, beside what the plan says: fragments, libraries that are loaded late."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Decodes until the socket is closed."""
    _end_with(int(sys.argv[2]))
    os.nice(_NICENESS)
    return_large_blocks()
    with socket.socket(fileno=int(sys.argv[1])) as parent, contextlib.suppress(EOFError, ConnectionError):
        parent.sendall(READY)
        while True:
            plan_length, file_length = LENGTHS.unpack(receive(parent, LENGTHS.size))
            plan, seconds = pickle.loads(receive(parent, plan_length))
            _limit_memory(plan.decoder_bytes + _SLACK_BYTES)
            file = bytes(receive(parent, file_length))
            # Of processor time: how busy the machine is is not the file's fault. SIGPROF ends the process.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            _answer(parent, file, plan)
            signal.setitimer(signal.ITIMER_PROF, 0)


def _end_with(parent: int) -> None:
    """Has the kernel kill this process when its parent is gone; leaves all signals to the parent."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _limit_memory(more: int) -> None:
    """Lets the process take so many bytes more than it has now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))


def _answer(parent: socket.socket, file: bytes, plan: Plan) -> None:
    try:
        decoded = decode(file, plan)
        parent.sendall(PICTURE + struct.pack("<2IB", *decoded.size, decoded.orientation))
        for strip in decoded.strips:
            parent.sendall(STRIP + struct.pack("<I", strip.height))
            parent.sendall(strip.tobytes())
    except DecodeError as error:
        text = str(error).encode()[:1000]
        parent.sendall(REFUSED + struct.pack("<I", len(text)) + text)
    except MemoryError:
        # What is left of it is not worth keeping.
        parent.sendall(MEMORY)
        raise EOFError from None


if __name__ == "__main__":
    main()
