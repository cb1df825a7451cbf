"""Which address and interface a machine uses towards the others that serve the same model.

vLLM and Gloo would each guess: by the route to a host on the internet, and by what the machine's own name
resolves to. Where there is no such route, or the name means 127.0.1.1, ranks wait for each other at addresses
that nobody reaches.
"""

import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from octet.errors import StartupError

VLLM = "VLLM_HOST_IP"
GLOO = "GLOO_SOCKET_IFNAME"
NCCL = "NCCL_SOCKET_IFNAME"


@dataclass(frozen=True, slots=True)
class Addresses:
    """How a machine is reached by the others, and where it reaches the first one.

    Attributes:
        own: this machine's address.
        master: the first machine's address, never a name.
        interface: the network interface that holds `own`.
    """

    own: str
    master: str
    interface: str

    @contextmanager
    def announced(self, *, cuda: bool) -> Iterator[None]:
        """Tells them to vLLM, Gloo and, with `cuda`, NCCL, in processes that are started inside.

        What the environment says already stays.
        """
        wanted = {VLLM: self.own, GLOO: self.interface} | ({NCCL: f"={self.interface}"} if cuda else {})
        added = {name: value for name, value in wanted.items() if not os.environ.get(name)}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]


def choose(master_addr: str, *, first: bool, cuda: bool = False) -> Addresses:
    """Chooses this machine's address: the master address itself, or where the way to it begins.

    Args:
        master_addr: --master-addr.
        first: whether this is the machine that serves.
        cuda: whether NCCL's variable counts.

    Raises:
        StartupError: with the flag or variable, when an address or interface is not there or of no use.
    """
    interfaces = _interfaces()
    master = _resolve(master_addr)
    _check_gloo(interfaces, os.environ.get(GLOO, ""), master)
    if cuda:
        _check_nccl(interfaces, os.environ.get(NCCL, ""))
    if first and not _is_held(master):
        raise StartupError(
            f"--master-addr: no interface of this machine holds {_shown(master_addr, master)}; it has "
            f"{_list(interfaces)}"
        )
    route = master if first else _start_of_way(master_addr, master)
    own = os.environ.get(VLLM) or route
    if own != route:
        _check_own(own, master, interfaces)
    return Addresses(own, master, _interface_of(own, interfaces))


def _resolve(master_addr: str) -> str:
    """The master's address. Of several that a name has, IPv4 goes first, on every machine alike."""
    try:
        address = ipaddress.ip_address(master_addr)
    except ValueError:
        pass
    else:
        if address.is_unspecified or address.is_multicast:
            raise StartupError(f"--master-addr: {master_addr} is not the address of a machine")
        return master_addr
    try:
        found = socket.getaddrinfo(master_addr, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StartupError(f"--master-addr: {master_addr!r} has no address ({why})") from None
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    addresses = [str(entry[4][0]) for entry in found]
    if master_addr == "localhost":
        return addresses[0]
    reachable = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    if not reachable:
        raise StartupError(
            f"--master-addr: {master_addr} means {addresses[0]} on this machine (/etc/hosts?), which no "
            "other machine reaches; give the address itself"
        )
    return reachable[0]


def _start_of_way(master_addr: str, master: str) -> str:
    """The address from which this machine speaks to the master: asked of the routes, nothing is sent."""
    with socket.socket(_family(master), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((master, 9))
        except OSError as error:
            raise StartupError(
                f"--master-addr: this machine has no way to {_shown(master_addr, master)} ({error.strerror})"
            ) from None
        return str(probe.getsockname()[0])


def _check_own(own: str, master: str, interfaces: Mapping[str, list[str]]) -> None:
    try:
        address = ipaddress.ip_address(own)
    except ValueError:
        raise StartupError(f"{VLLM}: {own!r} is not an address") from None
    if address.is_unspecified or not _is_held(own):
        raise StartupError(f"{VLLM}: no interface of this machine holds {own}; it has {_list(interfaces)}")
    if address.is_loopback and not ipaddress.ip_address(master).is_loopback:
        raise StartupError(f"{VLLM}: no other machine reaches {own}; leave it out, or give another address")


def _check_gloo(interfaces: Mapping[str, list[str]], value: str, master: str) -> None:
    for name in filter(None, value.split(",")):
        if name not in interfaces:
            raise StartupError(f"{GLOO}: no interface {name} is up here; there are {_list(interfaces)}")
        loopback = all(ipaddress.ip_address(address).is_loopback for address in interfaces[name])
        if loopback and not ipaddress.ip_address(master).is_loopback:
            raise StartupError(f"{GLOO}: no other machine reaches {name}; leave it out, or give another")


def _check_nccl(interfaces: Mapping[str, list[str]], value: str) -> None:
    """NCCL takes beginnings of names, or with "=" whole ones; "^" before them excludes."""
    exact, text = value.lstrip("^").startswith("="), value.lstrip("^").lstrip("=")
    if value.startswith("^") or not text:
        return
    for name in text.split(","):
        if any(held == name if exact else held.startswith(name) for held in interfaces):
            return
    raise StartupError(f"{NCCL}: {value} fits no interface here; there are {_list(interfaces)}")


def _interfaces() -> dict[str, list[str]]:
    """The addresses of each interface that is up and has any."""
    import psutil  # type: ignore[import-untyped]

    states = psutil.net_if_stats()
    found: dict[str, list[str]] = {}
    for name, entries in psutil.net_if_addrs().items():
        addresses = [
            entry.address.partition("%")[0]
            for entry in entries
            if entry.family in (socket.AF_INET, socket.AF_INET6)
        ]
        if addresses and name in states and states[name].isup:
            found[name] = addresses
    return found


def _interface_of(own: str, interfaces: Mapping[str, list[str]]) -> str:
    address = ipaddress.ip_address(own.partition("%")[0])
    for name, held in interfaces.items():
        if any(ipaddress.ip_address(other) == address for other in held):
            return name
    if address.is_loopback:
        # All of 127.0.0.0/8 is held by the loopback interface, which names one.
        for name, held in interfaces.items():
            if any(ipaddress.ip_address(other).is_loopback for other in held):
                return name
    raise StartupError(f"no interface that is up holds {own}; there are {_list(interfaces)}")


def _is_held(address: str) -> bool:
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _shown(name: str, address: str) -> str:
    return address if name == address else f"{name} ({address})"


def _list(interfaces: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{address} ({name})" for name, held in interfaces.items() for address in held) or "none"
