"""Which address and interface a machine uses towards the others, and what it says where there is none."""

import os
import socket
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from octet.engine.vllm.launch.hosts.addresses import GLOO, NCCL, VLLM, Addresses, choose
from octet.errors import StartupError

(LOOPBACK,) = (
    name
    for name, entries in psutil.net_if_addrs().items()
    if any(entry.address == "127.0.0.1" for entry in entries)
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VLLM, GLOO, NCCL):
        monkeypatch.delenv(name, raising=False)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Makes every name mean these addresses."""

    def getaddrinfo(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, None, 0, "", (address, 0))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("master", ["127.0.0.1", "localhost", "127.0.1.1"])
def test_two_processes_on_one_machine(master: str, first: bool) -> None:
    chosen = choose(master, first=first)
    assert chosen.interface == LOOPBACK
    assert chosen.own.startswith("127.0.")
    assert chosen.master == master.replace("localhost", "127.0.0.1")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("master", "message"),
    [
        ("no-such-host.invalid", "--master-addr: 'no-such-host.invalid' has no address"),
        ("two words", "--master-addr: 'two words' has no address"),
        ("a" * 300, "--master-addr: 'a+' has no address"),
        ("0.0.0.0", "--master-addr: 0.0.0.0 is not the address of a machine"),
        ("::", "--master-addr: :: is not the address of a machine"),
        ("224.0.0.1", "--master-addr: 224.0.0.1 is not the address of a machine"),
    ],
)
def test_a_master_that_is_none(master: str, message: str, first: bool) -> None:
    with pytest.raises(StartupError, match=message) as raised:
        choose(master, first=first)
    assert "\n" not in str(raised.value)


def test_the_machine_that_serves_holds_the_master_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartupError, match=f"no interface .* holds 192.0.2.1; it has .*{LOOPBACK}"):
        choose("192.0.2.1", first=True)
    resolving(monkeypatch, "192.0.2.1")
    with pytest.raises(StartupError, match=r"no interface .* holds head \(192.0.2.1\)"):
        choose("head", first=True)


@pytest.mark.parametrize("first", [True, False])
def test_a_name_that_means_loopback_is_refused(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    resolving(monkeypatch, "127.0.1.1", "::1")
    with pytest.raises(StartupError, match=r"--master-addr: head means 127\.0\.1\.1 on this machine"):
        choose("head", first=first)


def test_of_several_addresses_the_first_that_others_reach_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "2001:db8::1", "127.0.1.1", "192.0.2.7", "192.0.2.8")
    with pytest.raises(StartupError, match=r"head \(192.0.2.7\)"):
        choose("head", first=True)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (VLLM, "192.0.2.1", "VLLM_HOST_IP: no interface of this machine holds 192.0.2.1; it has "),
        (VLLM, "0.0.0.0", "VLLM_HOST_IP: no interface of this machine holds 0.0.0.0"),
        (VLLM, "head", "VLLM_HOST_IP: 'head' is not an address"),
        (GLOO, "none0", "GLOO_SOCKET_IFNAME: no interface none0 is up here; there are "),
        (GLOO, f"{LOOPBACK},none0", "GLOO_SOCKET_IFNAME: no interface none0"),
        (NCCL, "none0", "NCCL_SOCKET_IFNAME: none0 fits no interface here"),
        (NCCL, f"={LOOPBACK[:-1]}", "NCCL_SOCKET_IFNAME: =.* fits no interface here"),
    ],
)
def test_what_the_user_sets_is_checked(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=message):
        choose("127.0.0.1", first=False, cuda=True)


@pytest.mark.parametrize(("variable", "value"), [(VLLM, "127.0.0.1"), (GLOO, LOOPBACK)])
def test_loopback_is_no_way_to_another_machine(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [address for name in psutil.net_if_addrs() for address in held_by(name)]
    if not addresses:
        pytest.skip("this machine has no other address")
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=f"{variable}: no other machine reaches {value}"):
        choose(addresses[0], first=True)


def held_by(interface: str) -> list[str]:
    """Its IPv4 addresses that others could reach."""
    entries = psutil.net_if_addrs()[interface]
    addresses = [entry.address for entry in entries if entry.family == socket.AF_INET]
    return [address for address in addresses if not address.startswith("127.")]


def test_what_the_user_sets_rightly_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {VLLM: "127.0.0.5", GLOO: LOOPBACK, NCCL: f"none,{LOOPBACK[:1]}"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    chosen = choose("127.0.0.1", first=True, cuda=True)
    assert chosen == Addresses("127.0.0.5", "127.0.0.1", LOOPBACK)
    with chosen.announced(cuda=True):
        assert {name: os.environ[name] for name in values} == values
    assert {name: os.environ[name] for name in values} == values


@pytest.mark.parametrize("cuda", [True, False])
def test_it_is_announced_for_the_time_of_a_start(cuda: bool) -> None:
    with Addresses("10.0.0.2", "10.0.0.1", "eth1").announced(cuda=cuda):
        assert os.environ[VLLM] == "10.0.0.2"
        assert os.environ[GLOO] == "eth1"
        assert os.environ.get(NCCL) == ("=eth1" if cuda else None)
    assert not {VLLM, GLOO, NCCL} & os.environ.keys()
