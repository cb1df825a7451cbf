"""One model over two machines, by the recipe of docs/scaling.md: how they start, and how they end.

Two network namespaces with a cable between them stand for the machines, without a default route and without
names; where the kernel makes none, two processes on one machine do what they can.
"""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
import psutil  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octet.client import Client, OctetRpcError
from tests.e2e import two_hosts
from tests.e2e.two_hosts import PORT, START_SECONDS, Host, Octet, flags_of, still_alive

NO_NAMESPACES = two_hosts.why_no_namespaces()
needs_namespaces = pytest.mark.skipif(NO_NAMESPACES is not None, reason=str(NO_NAMESPACES))
needs_no_namespaces = pytest.mark.skipif(NO_NAMESPACES is None, reason="namespaces can be made")
long = pytest.mark.skipif("OCTET_LONG_TESTS" not in os.environ, reason="takes long: make check-hosts")

# A start takes half a minute, and far more where many wait for few cores.
pytestmark = pytest.mark.timeout(3 * START_SECONDS)

# Moments, where cores are free; what once waited, waited for five minutes and more.
ENDING = 60

Hosts = tuple[Host, Host]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    pair: AbstractContextManager[Hosts]
    pair = two_hosts.one_machine_twice() if NO_NAMESPACES else two_hosts.two_namespaces()
    with pair as made:
        yield made


def start(hosts: Hosts, folder: Path) -> tuple[Octet, Octet]:
    """Both of them by the recipe, the one that computes first; they serve at a Unix socket."""
    second = hosts[1].serve(folder / "second.log", *flags_of(1, hosts[0].address))
    uds = ("--uds", str(folder / "socket"), "--no-tcp")
    first = hosts[0].serve(folder / "first.log", *flags_of(0, hosts[0].address), *uds)
    first.until("octet: serving")
    return first, second


@contextmanager
def watched(folder: Path, *, lives: bool) -> Iterator[None]:
    """An answer was right and another is running when the body begins.

    After it, the caller is told, and so are those who watch the health of a server that lives.
    """
    target = f"unix:{folder / 'socket'}"
    with grpc.insecure_channel(target) as channel, Client(target) as client:
        assert "Paris" in client.chat("What is the capital of France?").text
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=120)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stream = client.stream("Tell me a story.", ignore_eos=True, max_tokens=4000)
        assert next(iter(stream))
        yield
        if lives:
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(OctetRpcError) as raised:
            stream.answer()
        assert raised.value.code == grpc.StatusCode.UNAVAILABLE


def worker_of(octet: Octet) -> psutil.Process:
    (worker,) = (process for process in octet.family() if "VLLM::Worker" in " ".join(process.cmdline()))
    return worker


def cut(hosts: Hosts, first: Octet, second: Octet) -> None:
    hosts[1].set_link("down")


def kill_first(hosts: Hosts, first: Octet, second: Octet) -> None:
    first.send(signal.SIGKILL)


def kill_second(hosts: Hosts, first: Octet, second: Octet) -> None:
    second.send(signal.SIGKILL)


def kill_worker(hosts: Hosts, first: Octet, second: Octet) -> None:
    worker_of(second).kill()


def stop_second(hosts: Hosts, first: Octet, second: Octet) -> None:
    second.send(signal.SIGSTOP)
    first.until("octet: error")
    second.send(signal.SIGCONT)


def stop_worker(hosts: Hosts, first: Octet, second: Octet) -> None:
    worker_of(second).suspend()


def vanish(hosts: Hosts, first: Octet, second: Octet) -> None:
    """The machine is switched off: nothing says that it goes."""
    hosts[1].set_link("down")
    second.kill()


SECOND = "the machine of --node-rank 1, {1}, "
FIRST = "the machine that serves, {0}, "
SILENT = "has not answered for 10 s"

# What happens, and what each of the two says last; None for one that is killed.
FAULTS: dict[str, tuple[Callable[[Hosts, Octet, Octet], None], str | None, str | None]] = {
    "cut": (cut, SECOND + SILENT, FIRST + SILENT),
    "kill first": (kill_first, None, FIRST + "is gone"),
    "kill second": (kill_second, SECOND + "is gone", None),
    "kill worker": (
        kill_worker,
        f"({SECOND}has ended: a rank of this machine has ended|the engine has died)",
        f"(a rank of this machine has ended|{FIRST}has ended: .+)",
    ),
    "stop second": (stop_second, SECOND + SILENT, f"{FIRST}has ended: {SECOND}{SILENT}"),
    "stop worker": (stop_worker, SECOND + SILENT, f"{FIRST}has ended: {SECOND}{SILENT}"),
    "vanish": (vanish, SECOND + SILENT, None),
}
NEED_A_CABLE = {"cut", "vanish"}


@long
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(("cut", "kill first"), marks=needs_namespaces),
        pytest.param(("stop worker", "kill first"), marks=needs_no_namespaces),
        pytest.param(("vanish", "cut"), marks=needs_namespaces),
        *((name,) for name in FAULTS if name not in NEED_A_CABLE),
    ],
    ids=", ".join,
)
def test_a_machine_fails(faults: tuple[str, ...], hosts: Hosts, tmp_path: Path) -> None:
    """Both sides end, nothing is left, and both start again, at the same port, at once."""
    for name in faults:
        fault, *said = FAULTS[name]
        first, second = start(hosts, tmp_path)
        processes = first.family() + second.family()
        with watched(tmp_path, lives=said[0] is not None):
            fault(hosts, first, second)
        for octet, words in zip((first, second), said, strict=True):
            if words is None:
                assert octet.wait(ENDING) != 0
            else:
                assert octet.wait(ENDING) == 1
                line = words.format(*(host.address for host in hosts))
                assert [re.fullmatch(line, error) is not None for error in octet.errors] == [True], octet.text
        assert still_alive(processes, ENDING) == []
        assert [host.listeners(PORT) for host in hosts] == ["", ""]
        if not NO_NAMESPACES:
            hosts[1].set_link("up")


def test_two_machines_that_differ(hosts: Hosts, tmp_path: Path) -> None:
    """Both say in one line what differs, and nobody waits."""
    first = hosts[0].serve(tmp_path / "first.log", *flags_of(0, hosts[0].address, "--max-model-len", "512"))
    second = hosts[1].serve(tmp_path / "second.log", *flags_of(1, hosts[0].address, "--dtype", "float32"))
    there = f"on the machine of --node-rank 1, {hosts[1].address}"
    assert (first.wait(START_SECONDS), second.wait(START_SECONDS)) == (1, 1)
    assert first.last_line == (
        f"octet: error: --dtype is 'auto' here and 'float32' {there}; --max-model-len is 512 here and None "
        f"{there}; all machines need the same"
    )
    there = "on the machine that serves"
    assert second.last_line == (
        f"octet: error: --dtype is 'float32' here and 'auto' {there}; --max-model-len is None here and 512 "
        f"{there}; all machines need the same"
    )


def test_two_machines_that_miss_each_other(hosts: Hosts, tmp_path: Path) -> None:
    """Each waits at a port of its own, for as long as a flag says."""
    timeout = ("--hosts-timeout", "1")
    first = hosts[0].serve(tmp_path / "first.log", *flags_of(0, hosts[0].address, *timeout))
    second = hosts[1].serve(tmp_path / "second.log", *flags_of(1, hosts[0].address, *timeout, port=PORT + 1))
    assert (first.wait(START_SECONDS), second.wait(START_SECONDS)) == (1, 1)
    where = f"{hosts[0].address}:{PORT}"
    assert first.last_line == (
        f"octet: error: waited 1 s (--hosts-timeout) at {where} for --node-rank 1, which did not come"
    )
    where = f"{hosts[0].address}:{PORT + 1}"
    assert second.last_line == (
        f"octet: error: waited 1 s (--hosts-timeout) for the machine that serves, at {where} (--master-addr, "
        "--master-port): Connection refused"
    )


def test_signals_end_a_start_that_waits(hosts: Hosts, tmp_path: Path) -> None:
    """Both wait for another that does not come, and are told to stop."""
    first = hosts[0].serve(tmp_path / "first.log", *flags_of(0, hosts[0].address))
    second = hosts[1].serve(tmp_path / "second.log", *flags_of(1, hosts[0].address, port=PORT + 1))
    for octet, number in ((first, signal.SIGTERM), (second, signal.SIGINT)):
        octet.until("waiting for the others")
        processes = octet.family()
        octet.send(number)
        assert octet.wait(ENDING) == 0
        assert still_alive(processes, ENDING) == []


# What a start asks first, without the import of vLLM before it.
CHOOSE = """
import sys
from octet.engine.vllm.launch.hosts.addresses import choose
from octet.errors import StartupError
try:
    print(choose(sys.argv[1], first=sys.argv[2] == "0"))
except StartupError as error:
    print(error)
"""


@needs_namespaces
def test_addresses_that_lead_nowhere() -> None:
    """As Debian writes /etc/hosts, a machine's own name means 127.0.1.1; and others know another network."""
    with two_hosts.two_namespaces("127.0.1.1 head") as hosts:

        def choice(host: Host, rank: int, master: str) -> str:
            return two_hosts.run(*host.command(sys.executable, "-c", CHOOSE, master, str(rank))).strip()

        while "state UP" not in two_hosts.run(*hosts[1].command("ip", "link", "show", "eth0")):
            # The kernel says a moment later that both ends of the cable are there.
            pass
        first, second = choice(hosts[0], 0, "head"), choice(hosts[1], 1, "192.0.2.1")
        other = choice(hosts[1], 0, "10.77.0.1")
    assert first.startswith("--master-addr: head means 127.0.1.1 on this machine")
    assert second == "--master-addr: this machine has no way to 192.0.2.1 (Network is unreachable)"
    said, _, held = other.partition("; it has ")
    assert said == "--master-addr: no interface of this machine holds 10.77.0.1"
    # The kernel may have given the interface an address of its own, too.
    assert {"127.0.0.1 (lo)", "::1 (lo)", "10.77.0.2 (eth0)"} <= set(held.split(", "))
