"""What an engine core needs, whatever the model; imported by its fork server."""

import gc
import os

import setproctitle

# What imports write would stand in the middle of the front's log, which imports the same and says the same.
_silence = os.open(os.devnull, os.O_WRONLY)
for _output in (1, 2):
    os.dup2(_silence, _output)
os.close(_silence)

import vllm.v1.engine.core  # noqa: E402
import vllm.v1.executor.multiproc_executor  # noqa: E402, F401

# The place of titles, which vLLM gives its processes, is found only while the environment lies behind it.
setproctitle.getproctitle()

# What is there now stays: a collection would write to pages that all processes share.
gc.collect()
gc.freeze()
