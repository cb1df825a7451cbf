"""An engine that nothing has freed when the interpreter ends."""

import subprocess
import sys

LEFT_OVER = """
import json, sys
from octet.engine.vllm.compat.ending import quiet_llm
ours = quiet_llm()
theirs = ours.__mro__[1]
# Modules that are held are emptied, the first imported last: vLLM's before what frees these.
sys.held = [json, sys.modules[theirs.__module__]]
json.left_over = [kind.__new__(kind) for kind in (ours, theirs)]
"""


def test_octet_s_ends_quietly_where_vllm_s_own_does_not() -> None:
    process = subprocess.run([sys.executable, "-c", LEFT_OVER], capture_output=True, text=True, check=True)
    assert process.stderr.count("Exception ignored in: <function AsyncLLM.__del__") == 1
    assert process.stderr.count("Exception ignored in") == 1
