"""The machine's limits, measured: how fast it reads, copies and multiplies."""

from dataclasses import dataclass

import torch

from octet.bench import machine, timing
from octet.ops import library

# Of the square matrices that are multiplied: large enough for full speed.
SIDE = 1536


@dataclass(frozen=True, slots=True)
class Roofs:
    """Limits of the machine with some number of threads.

    Attributes:
        threads: how many.
        read: bytes a second, read from memory (:func:`read`; by a sum on a GPU).
        copy: bytes a second, read and written together by a copy.
        flops: a second, of torch's best bf16 matrix product (with float32 accumulation).
    """

    threads: int
    read: float
    copy: float
    flops: float

    def as_json(self) -> dict[str, float]:
        """The same as JSON values."""
        return {
            "threads": self.threads,
            "read_bytes_per_s": self.read,
            "copy_bytes_per_s": self.copy,
            "bf16_flops_per_s": self.flops,
        }


def read(memory: torch.Tensor) -> object:
    """Reads a contiguous tensor on the CPU once, as fast as torch's threads can, and does next to nothing."""
    return library.extension.read_memory(memory.data_ptr(), memory.nbytes)


def measure(threads: int, seconds: float, device: str = "cpu") -> Roofs:
    """Measures with torch's own operators, each for about `seconds`, on the threads that torch is set to."""
    # Eight times the last-level cache; on GPUs, which fetch and multiply faster, more than that of any.
    size = 8 * machine.l3_bytes() if device == "cpu" else 2 << 30
    side = SIDE if device == "cpu" else 8192
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    left = torch.ones(side, side, dtype=torch.bfloat16, device=device)
    right = torch.ones(side, side, dtype=torch.bfloat16, device=device)
    measured = timing.take_turns(
        {
            "read": source.sum if device == "cuda" else lambda: read(source),
            "copy": lambda: target.copy_(source),
            "product": lambda: left @ right,
        },
        seconds,
        synchronize=torch.cuda.synchronize if device == "cuda" else None,
    )
    return Roofs(
        threads,
        size / measured["read"].q1,
        2 * size / measured["copy"].q1,
        2 * side**3 / measured["product"].q1,
    )
