"""Processes that are forked off a server have their starter's surroundings, and nobody outlives anybody."""

import os
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from octet.engine.vllm import compat
from octet.engine.vllm.launch import forkserver
from tests.unit.engine.launch.test_orphans import alive

pytestmark = pytest.mark.skipif(
    compat.installed_distributions().keys() != {compat.CPU_DISTRIBUTION},
    reason="drivers do not survive a fork",
)

# Nothing of vLLM is needed to see how a process is started.
START = """
import os, sys
from octet.engine.vllm.launch import forkserver
forkserver.PRELOADED = sys.argv[1]
forkserver.server.start()
def run(code):
    process = forkserver.ForkContext().Process(target=exec, args=(code,))
    process.start()
    return process
"""

SURROUNDINGS = f"""{START}
os.environ["OCTET_LATE"] = "late"
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
read, write = os.pipe()
os.dup2(write, 1)
os.close(write)
child = run('''
import os, sys
print("child", os.environ["OCTET_LATE"], len(os.sched_getaffinity(0)), "torch" in sys.modules, flush=True)
os._exit(7)
''')
child.join()
os.dup2(2, 1)
print(os.read(read, 10000).decode(), child.exitcode, file=sys.stderr)
"""


def script(code: str, preloaded: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, preloaded],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_has_its_starters_surroundings() -> None:
    with script(SURROUNDINGS, "json") as front:
        _, said = front.communicate(timeout=60)
    assert said.split() == ["child", "late", "1", "False", "7"], said


# Keeps the interpreter's lock while it is imported, as torch does.
SLOW = (
    "import ctypes, os; open(os.environ['SEEN'], 'w').write(str(os.getpid())); ctypes.PyDLL(None).sleep(300)"
)


def test_the_server_dies_with_a_killed_process_also_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "slow_import.py").write_text(SLOW)
    seen = tmp_path / "seen"
    os.mkfifo(seen)
    with script(f"{START}\ninput()", "slow_import", PYTHONPATH=str(tmp_path), SEEN=str(seen)) as front:
        server = psutil.Process(int(seen.read_text()))
        assert alive(server)
        front.kill()
    psutil.wait_procs([server], timeout=5)
    assert not alive(server)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("OMP_NUM_THREADS", False),
        ("VLLM_LOGGING_LEVEL", False),
        ("HF_HUB_OFFLINE", False),
        ("VLLM_CPU_OMP_THREADS_BIND", True),
        ("OCTET_KERNELS", True),
        ("LD_PRELOAD", True),
    ],
)
def test_what_is_read_when_modules_are_imported_must_not_change(
    name: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = forkserver.ForkServer()
    assert not server.fits(), "it has not been started"
    server._started = True
    server.imported()
    assert server.fits()
    monkeypatch.setenv(name, "something else")
    assert server.fits() is fits
