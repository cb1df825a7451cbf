"""What hangs on a lifeline dies with the process that holds it: however deep, however that ended."""

import os
import subprocess
import sys
import textwrap

import psutil  # type: ignore[import-untyped]

from octet._lifeline import VARIABLE
from octet.engine.vllm.launch.orphans import Lifeline

# Says its own id and that of a program that knows nothing of lifelines, then keeps the interpreter's lock.
CHILD = """
import ctypes, os, subprocess
inner = subprocess.Popen(["sleep", "300"])
print(os.getpid(), inner.pid, flush=True)
ctypes.PyDLL(None).sleep(300)
"""

# Starts a child from a thread that ends, and waits to be killed.
FRONT = f"""
import subprocess, sys, threading
from octet.engine.vllm.launch.orphans import Lifeline
lifeline = Lifeline()
with lifeline.tied():
    start = threading.Thread(target=lambda: subprocess.Popen([sys.executable, "-c", {CHILD!r}]))
    start.start()
    start.join()
input()
"""


def alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def test_they_die_with_a_killed_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FRONT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as front:
        assert front.stdout is not None
        orphans = [psutil.Process(int(pid)) for pid in front.stdout.readline().split()]
        assert len(orphans) == 2
        assert all(map(alive, orphans)), "the thread that started them has ended"
        front.kill()
    psutil.wait_procs(orphans, timeout=5)
    assert not any(map(alive, orphans))


def test_they_die_when_it_is_cut_and_so_do_those_who_come_later() -> None:
    lifeline, other = Lifeline(), Lifeline()
    children = []
    for held in (lifeline, lifeline, other):
        with held.tied():
            children.append(
                subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
            )
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    first, second, kept = children
    assert sorted(lifeline.pids()) == sorted([first.pid, second.pid])
    lifeline.cut()
    lifeline.cut()
    assert first.wait(5) == second.wait(5) == -9
    assert lifeline.pids() == []
    with lifeline.tied():
        late = subprocess.run([sys.executable, "-c", "print('alive')"], capture_output=True, check=False)
    assert (late.returncode, late.stdout) == (1, b"")
    assert kept.poll() is None
    other.cut()
    assert kept.wait(5) == -9


def test_what_is_started_outside_does_not_hang_on_it() -> None:
    assert VARIABLE not in os.environ
    lifeline = Lifeline()
    with lifeline.tied(), Lifeline().tied():
        pass
    assert VARIABLE not in os.environ
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as free:
        lifeline.cut()
        free.communicate(b"\n")
    assert free.returncode == 0


def test_a_process_whose_starter_is_gone_ends_before_it_begins() -> None:
    gone = {VARIABLE: "/proc/4194304/fd/3"}
    ended = subprocess.run(
        [sys.executable, "-c", "print('alive')"], env=os.environ | gone, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_the_resource_tracker_stays_to_free_what_the_dead_have_left() -> None:
    """It ends by itself, with the last process that could ask it for something."""
    code = textwrap.dedent("""
        from multiprocessing import shared_memory
        print(shared_memory.SharedMemory(create=True, size=64).name, flush=True)
        input()
    """)
    lifeline = Lifeline()
    with (
        lifeline.tied(),
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child,
    ):
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        (tracker,) = psutil.Process(child.pid).children()
        assert os.path.exists(f"/dev/shm/{name}")
        while os.getpgid(tracker.pid) != tracker.pid:
            # Its interpreter is still starting.
            os.sched_yield()
        lifeline.cut()
    psutil.wait_procs([tracker], timeout=10)
    assert not os.path.exists(f"/dev/shm/{name}")


def test_without_a_lifeline_an_interpreter_loads_nothing_for_it() -> None:
    code = "import sys; print('octet._lifeline' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"
