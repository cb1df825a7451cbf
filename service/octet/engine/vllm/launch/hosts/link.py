"""The program that keeps a machine in touch with the others: it lets them meet, and then beats.

A process of its own, which imports nothing but Python's standard library: a beat must wait neither for a
step of the model nor for the interpreter's lock, which loading a tokenizer holds for seconds. `meeting`
starts it; it ends with its standard input, and speaks in lines of JSON, with the starting process as with the
other machines. An empty line is a beat.

All machines connect to the first one, at the master address and port, which torch takes after them. A beat
says that every process of a machine runs: one that is stopped (SIGSTOP) keeps the machine from sending any.
"""

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any, NoReturn

from octet.engine.vllm.launch.hosts.wire import (
    HELLO_SECONDS,
    Alone,
    Gone,
    Lines,
    Lost,
    Message,
    Peer,
    at,
    family,
    has_left,
    hear,
    heed,
    patient_with,
)

BEAT_SECONDS = 1.0

SILENCE_SECONDS = 10.0
"""How long a machine may say nothing before it is given up."""

# What it may take to reach a machine that is there.
_REACH_SECONDS = 5.0
_RETRY_SECONDS = 0.5

# Changes with what is said.
_PROTOCOL = "octet-hosts-1"


class Link:
    """This machine's end.

    Args:
        task: as `meeting` describes it: rank, hosts, master (address and port), address (this machine's),
            settings (text by name), timeout (seconds).
        front: the process that this one works for.
    """

    def __init__(self, task: Message, front: Lines) -> None:
        self._rank: int = task["rank"]
        self._hosts: int = task["hosts"]
        self._master: tuple[str, int] = (task["master"][0], task["master"][1])
        self._address: str = task["address"]
        self._settings: dict[str, str] = task["settings"]
        self._timeout: float = task["timeout"]
        self._deadline = time.monotonic() + self._timeout
        self._front = front
        self._pids = [os.getppid()]
        self._met: dict[int, Peer] = {}

    @property
    def _peers(self) -> list[Peer]:
        """The machines that this one is connected to, by rank."""
        return [self._met[rank] for rank in sorted(self._met)]

    def meet(self) -> None:
        """Waits for the others; all of them have the same settings and reach each other.

        Raises:
            Lost: when that is not so, or not within the time.
        """
        with socket.create_server((self._address, 0), family=family(self._address), backlog=128) as probe:
            if self._rank == 0:
                self._gather()
                self._introduce(probe.getsockname()[1])
            else:
                self._join(probe.getsockname()[1])

    def keep(self) -> NoReturn:
        """Beats, until a machine is lost or no more is wanted.

        Raises:
            Lost: with what is wrong.
            Alone: when no more is wanted.
        """
        beat = time.monotonic()
        while True:
            ready = select.select([self._front, *self._peers], [], [], max(0.0, beat - time.monotonic()))[0]
            if self._front in ready:
                self._listen_to_front()
            for peer in self._peers:
                if peer in ready:
                    hear(peer)
            # After everything that has come was read: this process may itself have been stopped for a while.
            now = time.monotonic()
            for peer in self._peers:
                if now - peer.heard > SILENCE_SECONDS:
                    raise Lost(f"{peer.name} has not answered for {SILENCE_SECONDS:g} s")
            if now >= beat:
                beat = now + BEAT_SECONDS
                if not any(map(_is_stopped, self._pids)):
                    for peer in self._peers:
                        peer.send()

    def part(self, reason: str) -> None:
        """Tells the others why this machine ends; "" where that is nobody's business."""
        for peer in self._peers:
            if reason:
                peer.send({"end": reason})
            peer.close()

    def _listen_to_front(self) -> None:
        try:
            messages = self._front.read()
        except Gone:
            raise Alone("") from None
        for message in messages:
            if "end" in message:
                raise Alone(message["end"])
            self._pids = [os.getppid(), *message["pids"]]

    # The first machine

    def _gather(self) -> None:
        """Waits until every other machine has come and has the same settings."""
        strangers: list[Peer] = []
        beat = time.monotonic()
        with self._listen() as listener:
            while len(self._met) < self._hosts - 1:
                now = time.monotonic()
                if now > self._deadline:
                    raise Lost(self._missing())
                if now >= beat:
                    beat = now + BEAT_SECONDS
                    for peer in self._peers:
                        peer.send()
                    strangers = patient_with(strangers)
                sources: list[Any] = [self._front, listener, *self._peers, *strangers]
                wait = min(beat, self._deadline) - now
                ready = select.select(sources, [], [], max(0.0, wait))[0]
                if self._front in ready:
                    self._listen_to_front()
                self._met = {
                    rank: peer for rank, peer in self._met.items() if peer not in ready or not has_left(peer)
                }
                strangers = [peer for peer in strangers if peer not in ready or self._still_strange(peer)]
                if listener in ready:
                    with contextlib.suppress(OSError):
                        strangers.append(Peer(listener.accept()[0], "a stranger"))

    def _listen(self) -> socket.socket:
        try:
            return socket.create_server(self._master, family=family(self._master[0]), backlog=128)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise Lost(f"--master-port: cannot listen on {at(self._master)}: {why}") from None

    def _missing(self) -> str:
        ranks = ", ".join(str(rank) for rank in range(1, self._hosts) if rank not in self._met)
        return (
            f"waited {self._timeout:g} s (--hosts-timeout) at {at(self._master)} for --node-rank {ranks}, "
            "which did not come"
        )

    def _still_strange(self, peer: Peer) -> bool:
        """Takes in whoever says that it is one of the machines; False where there is no more to hear."""
        try:
            if not (messages := peer.read()):
                return True
            hello, rank = messages[0], messages[0]["rank"]
            if hello["protocol"] != _PROTOCOL or rank not in range(1, self._hosts):
                raise Gone
            theirs, peer.probe = dict(hello["settings"]), (str(hello["address"]), int(hello["port"]))
        except (Gone, KeyError, TypeError, ValueError):
            peer.close()
            return False
        peer.inbox += messages[1:]
        peer.name = f"the machine of --node-rank {rank}, {peer.address},"
        if different := _differences(self._settings, theirs):
            swapped = [(name, other, own) for name, own, other in different]
            peer.send({"refused": _explain(swapped, "on the machine that serves")})
            peer.close()
            raise Lost(_explain(different, f"on {peer.name.rstrip(',')}"))
        if rank in self._met:
            taken = f"--node-rank: {self._met[rank].address} has {rank} already"
            peer.send({"refused": taken})
            peer.close()
            return False
        peer.send({"protocol": _PROTOCOL})
        self._met[rank] = peer
        return False

    def _introduce(self, port: int) -> None:
        """Has all machines try whether they reach each other."""
        everybody = {"0": (self._address, port)}
        for rank, peer in enumerate(self._peers, 1):
            everybody[str(rank)] = peer.probe
        for peer in self._peers:
            peer.send({"everybody": everybody})
        failures = [self._reach(everybody), *(self._ask(peer, "reached") for peer in self._peers)]
        for failure in filter(None, failures):
            for peer in self._peers:
                peer.send({"refused": failure})
            raise Lost(failure)
        for peer in self._peers:
            peer.send({"go": True})

    # The others

    def _join(self, port: int) -> None:
        """Comes to the first machine, and waits there for the rest."""
        hello = {"protocol": _PROTOCOL, "rank": self._rank, "settings": self._settings}
        master = self._connect({**hello, "address": self._address, "port": port})
        self._met = {0: master}
        everybody = self._ask(master, "everybody", self._deadline + _REACH_SECONDS - time.monotonic())
        master.send({"reached": self._reach(everybody)})
        self._ask(master, "go")

    def _connect(self, hello: Message) -> Peer:
        """Tries until somebody answers who is the first machine."""
        why = "nobody tried"
        while time.monotonic() < self._deadline:
            try:
                master = Peer(self._dial(self._master), f"the machine that serves, {self._master[0]},")
                master.send(hello)
                self._wait_for(master, "protocol", min(HELLO_SECONDS, self._deadline - time.monotonic()))
            except OSError as error:
                why = error.strerror or str(error)
            except Gone:
                master.close()
                why = "what answers there is no octet serve that waits for its machines"
            else:
                return master
            if select.select([self._front], [], [], _RETRY_SECONDS)[0]:
                self._listen_to_front()
        raise Lost(
            f"waited {self._timeout:g} s (--hosts-timeout) for the machine that serves, at "
            f"{at(self._master)} (--master-addr, --master-port): {why}"
        )

    # Both

    def _reach(self, everybody: dict[str, Any]) -> str | None:
        """What is wrong with the way to another machine, if anything is."""
        for rank, (address, port) in everybody.items():
            if int(rank) == self._rank:
                continue
            try:
                self._dial((address, port)).close()
            except OSError as error:
                return (
                    f"the machine of --node-rank {self._rank} cannot reach that of --node-rank {rank} at "
                    f"{at((address, port))}: {error.strerror or error}; all ports between the machines have "
                    "to be open, and VLLM_HOST_IP chooses a machine's address"
                )
        return None

    def _dial(self, address: tuple[str, int]) -> socket.socket:
        """A connection, unless the process that this one works for goes before there is one."""
        left = min(_REACH_SECONDS, max(0.1, self._deadline - time.monotonic()))
        connection = socket.socket(family(address[0]))
        try:
            connection.setblocking(False)
            connection.connect_ex(address)
            ready = select.select([self._front], [connection], [], left)
            if ready[0]:
                self._listen_to_front()
            if not ready[1]:
                raise TimeoutError(0, "no answer")
            if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number))
        except BaseException:
            connection.close()
            raise
        return connection

    def _ask(self, peer: Peer, key: str, seconds: float = 30.0) -> Any:
        """What a machine that has come says about `key`.

        Raises:
            Lost: when it says nothing within `seconds`, or ends.
        """
        try:
            return self._wait_for(peer, key, seconds)
        except Gone:
            raise Lost(f"{peer.name} is gone") from None

    def _wait_for(self, peer: Peer, key: str, seconds: float) -> Any:
        """What whoever is connected says about `key`; Gone when it does not, Lost when it refuses."""
        deadline = time.monotonic() + seconds
        while True:
            while peer.inbox:
                message = peer.inbox.pop(0)
                if key in message:
                    return message[key]
            left = deadline - time.monotonic()
            ready = select.select([self._front, peer], [], [], max(0.0, left))[0]
            if not ready:
                raise Gone
            if self._front in ready:
                self._listen_to_front()
            if peer in ready:
                peer.inbox += heed(peer)


def _differences(mine: dict[str, str], theirs: dict[str, str]) -> list[tuple[str, str, str]]:
    """The settings that differ: their names, mine, theirs."""
    names = sorted(mine.keys() | theirs.keys())
    pairs = [(name, mine.get(name, "unset"), theirs.get(name, "unset")) for name in names]
    return [(name, here, there) for name, here, there in pairs if here != there]


def _explain(different: list[tuple[str, str, str]], there: str) -> str:
    named = "; ".join(f"{name} is {mine} here and {theirs} {there}" for name, mine, theirs in different[:3])
    more = f"; {len(different) - 3} more differ" if len(different) > 3 else ""
    return f"{named}{more}; all machines need the same"


def _is_stopped(pid: int) -> bool:
    """Whether a process is held by SIGSTOP. One that is gone is not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"T"
    except OSError:
        return False


def _tell(message: Message) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")


def main() -> None:
    """Runs the program: its first line of input is the task."""
    # The process that this one works for gets them as well, and says when the end has come.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    front = Lines(0)
    link = Link(front.first(), front)
    try:
        link.meet()
        _tell({"met": True})
        link.keep()
    except Lost as error:
        _tell({"lost": str(error)})
        link.part(str(error))
    except Alone as error:
        link.part(str(error))


if __name__ == "__main__":
    main()
