"""What the processes of an engine need on CPUs, whatever the model; imported once, by their fork server."""

import gc

import setproctitle
import vllm.v1.engine.core
import vllm.v1.executor.multiproc_executor
import vllm.v1.worker.cpu_worker  # noqa: F401

# The place of titles, which vLLM gives its processes, is found only while the environment lies behind it.
setproctitle.getproctitle()

# What is there now stays: a collection would write to pages that all processes share.
gc.collect()
gc.freeze()
