"""How machines that serve one model together speak to each other: lines of JSON, and empty ones as beats."""

import contextlib
import json
import os
import socket
import time
from typing import Any

HELLO_SECONDS = 5.0
"""What a new connection may take to say who it is."""

_LONGEST_LINE = 1 << 20

Message = dict[str, Any]


class Lost(Exception):
    """The machines cannot work together, or no longer; the message says why."""


class Alone(Exception):
    """The process that this one works for is gone, or wants no more."""


class Gone(Exception):
    """A connection has ended, or what came over it was no message."""


class Lines:
    """Messages out of a file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def fileno(self) -> int:
        """For select."""
        return self._fd

    def first(self) -> Message:
        """The first message, which may be long.

        Raises:
            Gone: when there is none.
        """
        messages: list[Message] = []
        while not messages:
            messages = self.read()
        return messages[0]

    def read(self) -> list[Message]:
        """What has come; waits where there is nothing. Beats are empty messages.

        Raises:
            Gone: at the end.
        """
        try:
            chunk = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Gone from error
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk or len(self._rest) > _LONGEST_LINE:
            raise Gone
        try:
            messages = [json.loads(line) if line else {} for line in lines]
        except ValueError as error:
            raise Gone from error
        if not all(isinstance(message, dict) for message in messages):
            raise Gone
        return messages


class Peer(Lines):
    """Another machine."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        super().__init__(connection.fileno())
        self._connection = connection
        self.name = name
        """How it is called in messages."""
        self.address: str = connection.getpeername()[0]
        self.probe: tuple[str, int] = ("", 0)
        """Where it can be reached by the others, to try whether it can."""
        self.inbox: list[Message] = []
        """What has come together with something that was waited for."""
        self.since = self.heard = time.monotonic()
        connection.settimeout(HELLO_SECONDS)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self) -> list[Message]:
        """See Lines."""
        messages = super().read()
        self.heard = time.monotonic()
        return messages

    def send(self, message: Message | None = None) -> None:
        """Sends a message, or a beat. That a connection is broken is for `read` to find."""
        line = b"\n" if message is None else json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._connection.sendall(line)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


def hear(peer: Peer) -> None:
    """Takes a machine's beats; raises Lost at its end."""
    try:
        heed(peer)
    except Gone:
        raise Lost(f"{peer.name} is gone") from None


def heed(peer: Peer) -> list[Message]:
    """What a machine says beside its beats; raises Gone at its end, Lost where it says that it ends."""
    messages = [message for message in peer.read() if message]
    for message in messages:
        if "end" in message:
            raise Lost(f"{peer.name} has ended: {message['end']}")
        if "refused" in message:
            raise Lost(message["refused"])
    return messages


def has_left(peer: Peer) -> bool:
    """Whether a machine that had come is gone again; another start of it may follow."""
    try:
        heed(peer)
    except (Gone, Lost):
        peer.close()
        return True
    return False


def patient_with(strangers: list[Peer]) -> list[Peer]:
    """Those who have still some time to say who they are; the others' connections end."""
    now = time.monotonic()
    for peer in strangers:
        if now - peer.since > HELLO_SECONDS:
            peer.close()
    return [peer for peer in strangers if now - peer.since <= HELLO_SECONDS]


def family(address: str) -> socket.AddressFamily:
    """IPv4's or IPv6's."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def at(address: tuple[str, int]) -> str:
    """An address and its port, to read."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
