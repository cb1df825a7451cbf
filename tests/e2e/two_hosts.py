"""Two machines for tests: network namespaces with a cable between them, where the kernel makes such."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from octet.engine.vllm.launch.threads import BINDING
from tests.e2e.conftest import ENGINE_FLAGS, MODEL

START_SECONDS = 400
PORT = 29500


def why_no_namespaces() -> str | None:
    """Why two machines cannot be made here; None where they can."""
    if shutil.which("ip") is None:
        return "no `ip` (iproute2)"
    name = f"octet-{secrets.token_hex(2)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces: {made.stderr.strip()}"
    run("ip", "netns", "delete", name)
    return None


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@dataclass
class Host:
    """A machine: what runs in it sees only its own interfaces."""

    address: str
    cores: str
    namespace: str = ""
    processes: list["Octet"] = field(default_factory=list)

    def command(self, *words: str) -> list[str]:
        """What runs `words` on it."""
        return [*(("ip", "netns", "exec", self.namespace) if self.namespace else ()), *words]

    def serve(self, log: Path, *flags: str, environment: dict[str, str] | None = None) -> "Octet":
        """Starts `octet serve` on it."""
        variables = os.environ | {BINDING: self.cores} | (environment or {})
        for name in ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME"):
            if not environment or name not in environment:
                variables.pop(name, None)
        command = self.command(sys.executable, "-m", "octet", "serve", *flags)
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=variables)
        self.processes.append(octet := Octet(self, process, log))
        return octet

    def set_link(self, state: str) -> None:
        """Plugs its cable in ("up") or pulls it ("down")."""
        run(*self.command("ip", "link", "set", "eth0", state))

    def listeners(self, port: int) -> str:
        """Who listens there."""
        words = self.command(sys.executable, "-c", _LISTENERS, str(port))
        return run(*words).strip()

    def end(self) -> None:
        """Kills what still runs."""
        for octet in self.processes:
            octet.kill()


# Of /proc/net/tcp: who is in the state LISTEN.
_LISTENERS = """
import psutil, sys
port = int(sys.argv[1])
print([c for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port] or "")
"""


@dataclass
class Octet:
    """An `octet serve` on a host."""

    host: Host
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def text(self) -> str:
        """What it has written."""
        return self.log.read_text()

    @property
    def last_line(self) -> str:
        """What it wrote last."""
        return self.text.splitlines()[-1]

    @property
    def errors(self) -> list[str]:
        """Why it ended, in its own lines; vLLM's processes may end, and say so, after them."""
        mark = "octet: error: "
        return [line.removeprefix(mark) for line in self.text.splitlines() if line.startswith(mark)]

    def family(self) -> list[psutil.Process]:
        """Its processes: the one that was started first."""
        front = psutil.Process(self.process.pid)
        return [front, *front.children(recursive=True)]

    def until(self, pattern: str, seconds: float = START_SECONDS) -> "re.Match[str]":
        """Waits until it has written something."""
        give_up = time.monotonic() + seconds
        while (match := re.search(pattern, self.text)) is None:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < give_up, self.text
            time.sleep(0.1)
        return match

    def wait(self, seconds: float) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.text}") from None

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kills it, and what it has started."""
        family = self.family() if self.process.poll() is None else []
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def still_alive(processes: Sequence[psutil.Process], seconds: float) -> list[str]:
    """Those that live on after so many seconds."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [str(process) for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def two_namespaces(names_file: str = "") -> Iterator[tuple[Host, Host]]:
    """Two machines, 10.77.0.1 and 10.77.0.2, joined by a cable; no way leads elsewhere.

    Args:
        names_file: what is in the /etc/hosts of both beside localhost.
    """
    suffix = secrets.token_hex(2)
    cores = sorted(os.sched_getaffinity(0))
    names = [f"octet-{suffix}-{number}" for number in (1, 2)]
    hosts = (
        Host("10.77.0.1", str(cores[0]), names[0]),
        Host("10.77.0.2", str(cores[-1]), names[1]),
    )
    for name in names:
        run("ip", "netns", "add", name)
    try:
        cable = ("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0")
        run("ip", *cable, "netns", names[1])
        for host in hosts:
            run(*host.command("ip", "address", "add", f"{host.address}/24", "dev", "eth0"))
            run(*host.command("ip", "link", "set", "lo", "up"))
            host.set_link("up")
            # `ip netns exec` puts it in the place of /etc/hosts.
            file = Path("/etc/netns", host.namespace, "hosts")
            file.parent.mkdir(parents=True)
            file.write_text(f"127.0.0.1 localhost\n{names_file}\n")
        yield hosts
    finally:
        for host in hosts:
            host.end()
        for name in names:
            shutil.rmtree(f"/etc/netns/{name}", ignore_errors=True)
            run("ip", "netns", "delete", name)


@contextmanager
def one_machine_twice() -> Iterator[tuple[Host, Host]]:
    """Two hosts that share all but their processes, for where there are no namespaces."""
    cores = sorted(os.sched_getaffinity(0))
    hosts = (Host("127.0.0.1", str(cores[0])), Host("127.0.0.1", str(cores[-1])))
    try:
        yield hosts
    finally:
        for host in hosts:
            host.end()


def flags_of(rank: int, master: str, *more: str, port: int = PORT, model: str = MODEL) -> Sequence[str]:
    """The documented recipe, with the demo checkpoint."""
    where = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", master, "--master-port", str(port)]
    role = ["--headless"] if rank else ["--port", "0"]
    return [model, *ENGINE_FLAGS, "--tensor-parallel-size", "2", *where, *role, *more]
