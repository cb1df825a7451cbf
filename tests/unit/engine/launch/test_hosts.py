"""How machines that serve one model meet, and what they notice of each other: real links, over loopback."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from octet.engine.vllm.launch.hosts.link import SILENCE_SECONDS
from octet.engine.vllm.launch.hosts.meeting import _PROGRAM

LOCAL = "127.0.0.1"


class Machine:
    """A link, and the pipes to it that its front process would hold."""

    def __init__(self, rank: int, port: int, **task: Any) -> None:
        described = {
            "rank": rank, "hosts": 2, "master": (LOCAL, port), "address": LOCAL,
            "settings": {}, "timeout": 30,
        }  # fmt: skip
        self.link = subprocess.Popen(_PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.tell(described | task)

    def tell(self, message: dict[str, Any]) -> None:
        assert self.link.stdin is not None
        self.link.stdin.write(json.dumps(message) + "\n")
        self.link.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """What the link says next; nothing at its end."""
        assert self.link.stdout is not None
        said: dict[str, Any] = json.loads(self.link.stdout.readline() or "{}")
        return said

    def end(self) -> None:
        for pipe in (self.link.stdin, self.link.stdout):
            assert pipe is not None
            pipe.close()
        self.link.kill()
        self.link.wait()


Start = Callable[..., Machine]


@pytest.fixture
def start() -> Iterator[Start]:
    machines: list[Machine] = []

    def make(rank: int, port: int, **task: Any) -> Machine:
        machines.append(Machine(rank, port, **task))
        return machines[-1]

    yield make
    for machine in machines:
        machine.end()


@pytest.fixture
def pair(start: Start, unused_tcp_port: int) -> tuple[Machine, Machine]:
    """Two that have met."""
    second, first = start(1, unused_tcp_port), start(0, unused_tcp_port)
    assert first.hear() == second.hear() == {"met": True}
    return first, second


def test_the_port_is_free_for_torch_once_all_have_met(start: Start, unused_tcp_port: int) -> None:
    machines = [start(rank, unused_tcp_port, hosts=4) for rank in (2, 0, 3, 1)]
    assert [machine.hear() for machine in machines] == [{"met": True}] * 4
    with socket.create_server(("", unused_tcp_port)):
        pass


@pytest.mark.parametrize("leaving", [0, 1])
def test_who_leaves_is_missed_at_once(pair: tuple[Machine, Machine], leaving: int) -> None:
    pair[leaving].link.kill()
    name = "that serves, 127.0.0.1," if leaving == 0 else "of --node-rank 1, 127.0.0.1,"
    assert pair[1 - leaving].hear() == {"lost": f"the machine {name} is gone"}


@pytest.mark.parametrize("leaving", [0, 1])
def test_who_leaves_may_say_why(pair: tuple[Machine, Machine], leaving: int) -> None:
    pair[leaving].tell({"end": "out of memory"})
    assert pair[1 - leaving].hear()["lost"].endswith("127.0.0.1, has ended: out of memory")
    assert pair[leaving].link.wait(10) == 0


def test_the_third_hears_what_became_of_the_second(start: Start, unused_tcp_port: int) -> None:
    first, second, third = (start(rank, unused_tcp_port, hosts=3) for rank in range(3))
    assert first.hear() == second.hear() == third.hear() == {"met": True}
    second.link.kill()
    gone = "the machine of --node-rank 1, 127.0.0.1, is gone"
    assert first.hear() == {"lost": gone}
    assert third.hear() == {"lost": f"the machine that serves, 127.0.0.1, has ended: {gone}"}


def test_a_link_ends_with_whom_it_works_for(start: Start, unused_tcp_port: int) -> None:
    first = start(0, unused_tcp_port)
    assert first.link.stdin is not None
    _connect(unused_tcp_port).close()
    first.link.send_signal(signal.SIGTERM)
    first.link.stdin.close()
    assert first.link.wait(10) == 0
    assert first.hear() == {}


def test_who_stands_still_is_given_up(pair: tuple[Machine, Machine], start: Start) -> None:
    """A link that is stopped itself, which finds out when it goes on, or another process of its machine."""
    with socket.create_server((LOCAL, 0)) as free:
        port = free.getsockname()[1]
    stopped, witness = start(0, port), start(1, port)
    assert stopped.hear() == witness.hear() == {"met": True}
    stopped.link.send_signal(signal.SIGSTOP)
    first, second = pair
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        second.tell({"pids": [worker.pid]})
        worker.send_signal(signal.SIGSTOP)
        expected = f"the machine of --node-rank 1, 127.0.0.1, has not answered for {SILENCE_SECONDS:g} s"
        assert first.hear() == {"lost": expected}
        assert second.hear()["lost"].endswith(expected)
        worker.kill()
    assert witness.hear()["lost"].endswith("has not answered for 10 s")
    stopped.link.send_signal(signal.SIGCONT)
    assert "has not answered for 10 s" in stopped.hear()["lost"]


def test_each_side_is_told_what_differs(start: Start, unused_tcp_port: int) -> None:
    first = start(0, unused_tcp_port, settings={"--dtype": "'auto'", "--seed": "0"})
    second = start(1, unused_tcp_port, settings={"--dtype": "'half'", "--seed": "0", "--new": "1"})
    there = "on the machine of --node-rank 1, 127.0.0.1"
    assert first.hear() == {
        "lost": f"--dtype is 'auto' here and 'half' {there}; --new is unset here and 1 {there}; all machines "
        "need the same"
    }
    there = "on the machine that serves"
    assert second.hear() == {
        "lost": f"--dtype is 'half' here and 'auto' {there}; --new is 1 here and unset {there}; all machines "
        "need the same"
    }


def test_long_settings_arrive(start: Start, unused_tcp_port: int) -> None:
    settings = {f"--flag-{number}": "x" * 1000 for number in range(300)}
    first, second = (start(rank, unused_tcp_port, settings=settings) for rank in (0, 1))
    assert first.hear() == second.hear() == {"met": True}


def test_nobody_waits_longer_than_asked(start: Start, unused_tcp_port: int) -> None:
    alone = start(0, unused_tcp_port, hosts=3, timeout=0.5)
    assert alone.hear() == {
        "lost": f"waited 0.5 s (--hosts-timeout) at 127.0.0.1:{unused_tcp_port} for --node-rank 1, 2, which "
        "did not come"
    }
    alone = start(1, unused_tcp_port, timeout=0.5)
    assert alone.hear() == {
        "lost": "waited 0.5 s (--hosts-timeout) for the machine that serves, at "
        f"127.0.0.1:{unused_tcp_port} (--master-addr, --master-port): Connection refused"
    }


def test_one_that_waits_is_told_that_another_does_not_come(start: Start, unused_tcp_port: int) -> None:
    second = start(1, unused_tcp_port, hosts=3, timeout=60)
    first = start(0, unused_tcp_port, hosts=3, timeout=2)
    assert "for --node-rank 2, which" in first.hear()["lost"]
    assert "for --node-rank 2, which" in second.hear()["lost"]


def test_a_port_in_use_is_told(start: Start) -> None:
    with socket.create_server((LOCAL, 0)) as taken:
        port = taken.getsockname()[1]
        lost = start(0, port).hear()["lost"]
    assert lost == f"--master-port: cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[]\n", b'{"protocol": 1}', b""])
def test_another_service_at_the_port_is_not_taken_for_it(start: Start, words: bytes) -> None:
    with socket.create_server((LOCAL, 0)) as listener:
        second = start(1, listener.getsockname()[1], timeout=1)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(words)
            if words:
                connection.shutdown(socket.SHUT_RDWR)
            lost = second.hear()["lost"]
    assert "what answers there is no octet serve that waits for its machines" in lost


def test_strangers_and_the_dead_do_not_disturb(start: Start, unused_tcp_port: int) -> None:
    first = start(0, unused_tcp_port, hosts=3)
    dead = start(1, unused_tcp_port, hosts=3)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\n", b"{}\n", b"[1]\n", b"\xff\n", b"1\n", b""):
        with _connect(unused_tcp_port) as stranger:
            stranger.sendall(words)
    with _connect(unused_tcp_port):
        dead.link.kill()
        assert dead.hear() == {}
        second, third = (start(rank, unused_tcp_port, hosts=3) for rank in (1, 2))
        assert first.hear() == second.hear() == third.hear() == {"met": True}


def test_a_rank_is_given_once(start: Start, unused_tcp_port: int) -> None:
    first, *twins = (start(rank, unused_tcp_port, hosts=3) for rank in (0, 1, 1))
    pipes = {machine.link.stdout: machine for machine in twins}
    (pipe,) = select.select(list(pipes), [], [])[0]
    assert pipes[pipe].hear() == {"lost": "--node-rank: 127.0.0.1 has 1 already"}
    (kept,) = (machine for machine in twins if machine is not pipes[pipe])
    third = start(2, unused_tcp_port, hosts=3)
    assert first.hear() == kept.hear() == third.hear() == {"met": True}


def test_machines_that_do_not_reach_each_other_say_so(start: Start, unused_tcp_port: int) -> None:
    """The second says an address at which nobody answers, as one behind address translation would."""
    first = start(0, unused_tcp_port)
    with socket.create_server((LOCAL, 0)) as gone:
        closed = gone.getsockname()[1]
    with _connect(unused_tcp_port) as second:
        hello = {"protocol": "octet-hosts-1", "rank": 1, "settings": {}, "address": LOCAL, "port": closed}
        second.sendall(json.dumps(hello).encode() + b"\n" + b'{"reached": null}\n')
        lost = first.hear()["lost"]
        told = b"".join(iter(lambda: second.recv(65536), b""))
    assert lost.startswith(
        f"the machine of --node-rank 0 cannot reach that of --node-rank 1 at 127.0.0.1:{closed}: Connection "
        "refused; all ports between the machines have to be open"
    )
    assert json.dumps({"refused": lost}).encode() in told


def test_the_program_loads_nothing_heavy() -> None:
    code = "import octet.engine.vllm.launch.hosts.link, sys; print(*sorted(sys.modules))"
    modules = subprocess.run([*_PROGRAM[:2], "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "vllm", "psutil", "grpc", "numpy", "asyncio"} & set(modules.split())


def _connect(port: int) -> socket.socket:
    """A connection to a first machine that may be still to listen."""
    while True:
        try:
            return socket.create_connection((LOCAL, port))
        except ConnectionRefusedError:
            os.sched_yield()
