"""Memory of large blocks comes back; in a process of its own, as it is set once."""

import subprocess
import sys

CODE = """
import sys
import psutil
from octet.heap import return_large_blocks

if sys.argv[1] == "on":
    return_large_blocks()
for size in (30, 20, 18):
    bytes(size * 2**20)  # teaches glibc that blocks of this size come and go
process = psutil.Process()
before = process.memory_info().rss
blocks = []
for _ in range(8):
    blocks += [bytearray(18 * 2**20), bytearray(200_000)]
del blocks[::2]
print((process.memory_info().rss - before) // 2**20)
"""


def mib_kept(state: str) -> int:
    command = [sys.executable, "-c", CODE, state]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_large_blocks_go_back_to_the_system() -> None:
    assert mib_kept("on") < 18
