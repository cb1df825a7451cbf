"""What an engine's processes need on CPUs, whatever the model; imported once, by their fork server."""

import gc
import os

import setproctitle

# The place of titles, which vLLM gives its processes, is found only while the environment lies behind it.
setproctitle.getproctitle()

# What imports write would stand in the middle of the front's log, which imports the same and says the same.
_silence = os.open(os.devnull, os.O_WRONLY)
for _output in (1, 2):
    os.dup2(_silence, _output)
os.close(_silence)

# What numpy and scipy compute with makes a thread for each core when it is loaded, and none may run here.
# OpenMP makes its own when they are needed; it has bound this process already where a worker will be bound.
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_blas_threads = os.environ.get(_BLAS_THREADS)
os.environ[_BLAS_THREADS] = "1"
os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))

import vllm.v1.engine.core  # noqa: E402
import vllm.v1.executor.multiproc_executor  # noqa: E402
import vllm.v1.worker.cpu_worker  # noqa: E402, F401
import xgrammar  # noqa: E402, F401

if _blas_threads is None:
    del os.environ[_BLAS_THREADS]
else:
    os.environ[_BLAS_THREADS] = _blas_threads

# What is there now stays: a collection would write to pages that all processes share.
gc.collect()
gc.freeze()
