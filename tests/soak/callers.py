"""Callers of a server, who ask by lot until they are stopped, and judge each answer by the contract."""

import asyncio
import socket
import struct
from collections import Counter
from contextlib import suppress

import grpc
from hpack import Encoder

from octet.v1 import chat_service_pb2
from tests.fuzz.judge import judge
from tests.fuzz.play import Outcome, Player
from tests.integration import http2
from tests.soak.mix import PATIENT, WRONG, Mix

HANGING_SECONDS = 2 * PATIENT

# Of callers' own mistakes; that a model makes no vectors is none of them.
_REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)

# A window that not even a first chunk fits into.
_WINDOW = 16
_RUDE_SECONDS = 30.0


class Callers:
    """So many callers at once, each with a connection of its own.

    Args:
        target: the server's address.
        count: how many.
        mix: what they ask.
        keys: whether the server knows callers by keys.
    """

    def __init__(self, target: str, count: int, mix: Mix, *, keys: bool = False) -> None:
        self._target = target
        self._count = count
        self._mix = mix
        self._keys = keys
        self._stopping = asyncio.Event()
        self.calls = 0
        self.ended: Counter[str] = Counter()
        """How many calls ended with which status."""
        self.findings: Counter[str] = Counter()
        """What was wrong with answers, and how often."""

    async def ask(self, seconds: float) -> None:
        """Makes calls for so long; comes back when the last one has ended and all connections are closed."""
        self._stopping.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._stopping.set)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._count):
                    group.create_task(self._caller())
        finally:
            timer.cancel()

    async def _caller(self) -> None:
        player = Player(self._target, keys=self._keys, patience=HANGING_SECONDS)
        try:
            while not self._stopping.is_set():
                self.calls += 1
                if self._mix.rude():
                    await asyncio.to_thread(leave, self._target, self._mix.story(), reset=self._mix.even())
                    self.ended["left"] += 1
                    continue
                [outcome] = await player.play(self._mix.case())
                self._judge(outcome)
        finally:
            await player.close()

    def _judge(self, outcome: Outcome) -> None:
        self.ended[outcome.code.name if outcome.code else "nothing"] += 1
        self.findings.update(judge(outcome, constrains=True, keys=self._keys))
        wrong, method = outcome.call.metadata == WRONG, outcome.call.method
        if wrong and outcome.code is grpc.StatusCode.OK:
            self.findings[f"{method}: what is wrong was answered"] += 1
        if not wrong and outcome.code in _REFUSALS:
            self.findings[f"{method}: what is right was refused: {outcome.details}"] += 1
        if outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED and outcome.call.seconds == PATIENT:
            self.findings[f"{outcome.call.method} took longer than {PATIENT:g} s"] += 1


def leave(target: str, request: chat_service_pb2.ChatRequest, *, reset: bool) -> None:
    """Asks for a long answer, takes next to nothing of it, and is gone; or resets the connection."""
    sock = http2.open_connection(target, room=_WINDOW)
    sock.settimeout(_RUDE_SECONDS)
    with sock, suppress(TimeoutError, ConnectionError):
        sock.sendall(b"".join(http2.chat_frames(Encoder(), 1, request)))
        said = b""
        # Its settings, the beginning of the call's answer, and as much of that as there is room for.
        while len(said) < 200:
            piece = sock.recv(4096)
            if not piece:
                break
            said += piece
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
