"""That the operators share their work among torch's threads, seen in the processor time of each thread."""

import json
import os
import subprocess
import sys

import pytest

# Prints the processor time, in ticks, that every thread of the process spent on 200 calls.
PROGRAM = """
import json, sys
from pathlib import Path
import torch
import octet.ops

torch.set_num_threads(2)
x = torch.randn(256, 3840).to(torch.bfloat16)
xq, scale = torch.ops.octet.per_token_quant_fp8(x, torch.float8_e4m3fn)
w = torch.randn(3840, 3840).to(torch.float8_e4m3fn)
w_scale = torch.rand(3840, 1)
half = w.to(torch.bfloat16)
gated = torch.randn(256, 7680).to(torch.bfloat16)
calls = {
    "per_token_quant_fp8": (lambda: torch.ops.octet.per_token_quant_fp8(x, torch.float8_e4m3fn), 4000),
    "gelu_tanh_and_mul_quant_fp8": (
        lambda: torch.ops.octet.gelu_tanh_and_mul_quant_fp8(gated, torch.float8_e4m3fn), 600),
    "fp8_linear": (
        lambda: torch.ops.octet.fp8_linear(xq, scale, w, w_scale, None, torch.bfloat16), 15),
    "bf16_linear": (lambda: torch.ops.octet.bf16_linear(x, half, None, torch.bfloat16), 15),
}
call, count = calls[sys.argv[1]]

def ticks():
    stats = [file.read_text().rpartition(")")[2].split() for file in Path("/proc/self/task").glob("*/stat")]
    return sorted(int(fields[11]) + int(fields[12]) for fields in stats)

call()
before = ticks()
for _ in range(count):
    call()
after = ticks()
print(json.dumps([b - a for a, b in zip(before, after)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "operator", ["per_token_quant_fp8", "gelu_tanh_and_mul_quant_fp8", "fp8_linear", "bf16_linear"]
)
def test_two_threads_share_the_work(operator: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, operator], env=environment, capture_output=True, text=True, check=True
    )
    spent = sorted(json.loads(done.stdout))
    # A thread that waits passively spends nothing; half of the work each, if both get to run at all.
    assert spent[-2] > 0.2 * spent[-1] > 0, spent
