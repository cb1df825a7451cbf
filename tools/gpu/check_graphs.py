"""Every operator captured in a CUDA graph and replayed a thousand times, on inputs that change, against
eager calls.

Usage: python -m tools.gpu.check_graphs LIBRARY
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

from tools.gpu.subject import EPS, FORMATS, load, say

_REPLAYS = 1000
# Comparing takes longer than replaying.
_COMPARED_EVERY = 50


def main(library: str) -> None:
    """Captures a chain of all operators, whose launches overlap, and compares what it leaves."""
    ops = load(library)
    wrong = []
    for tokens, width in ((1, 3840), (7, 1152), (33, 15360), (5, 17000)):
        x = torch.randn(tokens, 2 * width, device="cuda").bfloat16()
        residual = torch.randn(tokens, width, device="cuda").bfloat16()
        weight = torch.randn(width, device="cuda").bfloat16() * 0.1

        chain = functools.partial(_chain, ops, x, residual, weight)
        if not _replays_as_eager(chain, x, residual):
            wrong.append(f"{tokens} x {width}")
    say({"ok": not wrong, "replays": _REPLAYS, "wrong": wrong})


def _chain(
    ops: Any, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """What all operators make, the one often of what another made."""
    normed = ops.gemma_rms_norm(x[:, : len(weight)], weight, EPS)
    results = [
        ops.gemma_norm_add_norm_quant_fp8(normed, weight, residual, weight, EPS, FORMATS[0]),
        ops.gemma_rms_norm_quant_fp8(normed, weight, EPS, FORMATS[1], residual),
        ops.gelu_tanh_and_mul_quant_fp8(x, FORMATS[0]),
        ops.silu_and_mul_quant_fp8(x, FORMATS[0]),
        ops.per_token_quant_fp8(residual, FORMATS[0], None),
    ]
    return normed, *(tensor for result in results for tensor in result)


def _replays_as_eager(
    chain: Callable[[], tuple[torch.Tensor, ...]], x: torch.Tensor, residual: torch.Tensor
) -> bool:
    chain()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = chain()
    for replay in range(_REPLAYS):
        x.normal_()
        residual.normal_()
        before = residual.clone()
        graph.replay()
        if replay % _COMPARED_EVERY:
            continue
        after = residual.clone()
        kept = [tensor.clone() for tensor in captured]
        residual.copy_(before)
        eager = chain()
        if not torch.equal(residual, after):
            return False
        if not all(_same_bits(one, other) for one, other in zip(kept, eager, strict=True)):
            return False
    return True


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


if __name__ == "__main__":
    main(sys.argv[1])
