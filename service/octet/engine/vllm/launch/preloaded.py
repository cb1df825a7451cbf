"""What an engine's processes need on CPUs, whatever the model; imported once, by their fork server."""

import gc
import os

import setproctitle

# What imports write would stand in the middle of the front's log, which imports the same and says the same.
_silence = os.open(os.devnull, os.O_WRONLY)
for _output in (1, 2):
    os.dup2(_silence, _output)
os.close(_silence)

# Numpy's library makes a thread for each core that it may use, and none may run here. OpenMP's makes its own
# later; it has bound this process to a core already where a worker will be bound.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy  # noqa: E402, F401

os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))

import vllm.v1.engine.core  # noqa: E402
import vllm.v1.executor.multiproc_executor  # noqa: E402
import vllm.v1.worker.cpu_worker  # noqa: E402, F401
import xgrammar  # noqa: E402, F401

# The place of titles, which vLLM gives its processes, is found only while the environment lies behind it.
setproctitle.getproctitle()

# What is there now stays: a collection would write to pages that all processes share.
gc.collect()
gc.freeze()
