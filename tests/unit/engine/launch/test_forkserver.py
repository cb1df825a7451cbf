"""Processes that are forked off a server have their starter's surroundings, and nobody outlives anybody."""

import json
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
import json, os, sys
from octet.engine.vllm.launch import forkserver
forkserver.PRELOADED = sys.argv[1]
forkserver.server.start(1)
forkserver.server.imported()
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
inner = "import os; print('grandchild', os.getppid(), os.environ['OCTET_LATE'], flush=True)"
child = run(f'''
import os, sys
print("child", os.getppid(), os.environ["OCTET_LATE"], len(os.sched_getaffinity(0)), flush=True)
from octet.engine.vllm.launch import forkserver
print("modules", "torch" in sys.modules, forkserver.server.forked, flush=True)
os.environ.update(forkserver._READ_BY_WORKERS | forkserver._HUGE_PAGES | forkserver.openmp.foreseen(1))
process = forkserver.ForkContext().Process(target=exec, args=({{inner!r}},))
process.start()
process.join()
print("ended", process.exitcode, flush=True)
os._exit(7)
''')
child.join()
os.dup2(2, 1)
print(os.read(read, 10000).decode(), child.exitcode, forkserver.server.forked, file=sys.stderr)
"""

# What a worker computes with, told by a process that the engine core starts in the environment of a rank.
THREADS = f"""{START}
read, write = os.pipe()
os.dup2(write, 1)
os.close(write)
inner = '''
import os, torch
def add(values):
    return values + 1
if "COMPILED" in os.environ:
    add = torch.compile(add)
large = torch.ones(2**22)
for _ in range(3):
    large = add(large)
threads = [int(thread) for thread in os.listdir("/proc/self/task")]
forked = not any("spawn" in argument for argument in __import__("sys").orig_argv)
print(forked, torch.get_num_threads(), sorted(sorted(os.sched_getaffinity(t)) for t in threads), flush=True)
'''
child = run(f'''
import os, sys
from octet.engine.vllm.launch import forkserver
os.environ.update(forkserver._READ_BY_WORKERS | forkserver._HUGE_PAGES | forkserver.openmp.foreseen(2))
os.environ.update({{json.loads(sys.argv[2])!r}})
process = forkserver.ForkContext().Process(target=exec, args=({{inner!r}},))
process.start()
process.join()
''')
child.join()
os.dup2(2, 1)
print(os.read(read, 10000).decode(), file=sys.stderr)
"""


def script(code: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_has_its_starters_surroundings_and_so_has_one_that_it_starts() -> None:
    with script(SURROUNDINGS, "json") as front:
        _, said = front.communicate(timeout=60)
    lines = [line.split() for line in said.splitlines()]
    (_, server, late, cores), modules, (_, inner_server, inner_late), ended, last = lines
    assert [late, cores, modules, ended, last] == [
        "late",
        "1",
        ["modules", "False", "True"],
        ["ended", "0"],
        ["7", "False"],
    ], said
    assert (inner_server, inner_late) == (server, "late"), "it started a server of its own"


CORES = sorted(os.sched_getaffinity(0))


def rank(*cores: int) -> dict[str, str]:
    """What vLLM tells a rank that is to compute on these cores."""
    return {"OMP_NUM_THREADS": str(len(cores)), "GOMP_CPU_AFFINITY": " ".join(map(str, cores))}


@pytest.mark.skipif(len(CORES) < 2, reason="all threads are on one core")
@pytest.mark.parametrize(
    ("bound", "forked", "threads", "compiled"),
    [
        (CORES[:2], True, [[CORES[0]], [CORES[1]]], {}),
        (CORES[:2], True, [[CORES[0]], [CORES[1]]], {"COMPILED": "1"}),
        (CORES[:1], True, [[CORES[0]]], {}),
        (CORES[1:2], True, [[CORES[1]]], {}),
        (CORES[1::-1], False, [[CORES[0]], [CORES[1]]], {}),
    ],
    ids=["as foreseen", "by Inductor", "the first core", "the second core", "in another order"],
)
def test_a_workers_threads_are_bound_to_its_cores(
    bound: list[int], forked: bool, threads: list[list[int]], compiled: dict[str, str]
) -> None:
    two = {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, CORES[:2]))}
    with script(THREADS, "torch", json.dumps(rank(*bound)), **two, **compiled) as front:
        # Compiling a kernel takes a minute on a busy machine.
        _, said = front.communicate(timeout=300)
    assert said.split(maxsplit=2)[:2] == [str(forked), str(len(bound))], said
    assert json.loads(said.split(maxsplit=2)[2]) == threads, said


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
    ("name", "core", "worker"),
    [
        ("VLLM_LOGGING_LEVEL", False, False),
        ("HF_HUB_OFFLINE", False, False),
        ("OMP_PLACES", False, False),
        ("OMP_NUM_THREADS", True, False),
        ("GOMP_CPU_AFFINITY", True, False),
        ("LD_PRELOAD", True, False),
        ("TORCHINDUCTOR_CPP_DYNAMIC_THREADS", True, False),
        ("VLLM_CPU_OMP_THREADS_BIND", True, True),
        ("OCTET_KERNELS", True, True),
    ],
)
def test_what_is_read_when_modules_are_imported_must_not_change(
    name: str, core: bool, worker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = forkserver.ForkServer()
    assert not server.fits(), "it has not been started"
    server._started = True
    server.imported()
    assert server.fits()
    monkeypatch.setenv(name, "something else")
    assert server.fits() is core
    server.forked = True
    assert server.fits() is worker
