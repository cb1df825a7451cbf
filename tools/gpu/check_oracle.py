"""Every operator against the oracle: formats, dtypes, row lengths of every kernel, alignments, special
values.

Usage: python -m tools.gpu.check_oracle LIBRARY [--small]    (--small: few and short rows, for
compute-sanitizer)
"""

import math
import sys
from collections.abc import Iterator
from typing import Any

import torch

from tools.gpu.subject import DTYPES, EPS, FORMATS, load, oracle, rows, say, there

# At least one row length for each kernel, at its ends, and those of models.
_WIDTHS = (1, 9, 17, 1024, 1025, 1152, 3840, 5120, 8192, 8200, 15360, 16384, 16400, 32768, 52000)
_SMALL_WIDTHS = (1, 17, 130, 1025, 8200, 16400)

Quantized = tuple[torch.Tensor, torch.Tensor]


class Checks:
    """Counts comparisons, and keeps what differed."""

    def __init__(self) -> None:
        self.count = 0
        self.wrong: list[str] = []

    def same(self, name: str, actual: Quantized, expected: Quantized) -> None:
        """Equal bits."""
        codes, scales = (tensor.cpu() for tensor in actual)
        equal = torch.equal(codes.view(torch.uint8), expected[0].view(torch.uint8))
        self._note(name, equal and torch.equal(scales.view(torch.int32), expected[1].view(torch.int32)))

    def near(
        self, name: str, actual: Quantized, expected: Quantized, slack: torch.Tensor | float = 0.0
    ) -> None:
        """What the contract asks of fused kernels; values that differ by no more than the slack count as
        equal.
        """
        codes, scales = (tensor.cpu() for tensor in actual)
        scales_agree = torch.allclose(scales, expected[1], rtol=1e-6, atol=0.0, equal_nan=True)
        distance = (_ranks(codes) - _ranks(expected[0])).abs()
        error = (codes.float() - expected[0].float()).abs() * expected[1]
        distance = distance.masked_fill(error <= slack, 0)
        few = int(distance.count_nonzero()) <= max(1, distance.numel() // 1000)
        self._note(name, scales_agree and few and not bool((distance > 1).any()))

    def close(self, name: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
        """The same but for a last place."""
        ulp = torch.finfo(expected.dtype).eps
        self._note(name, torch.allclose(actual.cpu(), expected, rtol=2 * ulp, atol=16 * ulp, equal_nan=True))

    def _note(self, name: str, right: bool) -> None:
        self.count += 1
        if not right:
            self.wrong.append(name)


def _ranks(codes: torch.Tensor) -> torch.Tensor:
    bits = codes.view(torch.uint8).to(torch.int32)
    return torch.where(bits >= 128, 128 - bits, bits)


def check(ops: Any, width: int, dtype: torch.dtype, fmt: torch.dtype, checks: Checks, tokens: int) -> None:
    """All operators on rows of one width: on 16 bytes, and beside them with a stride."""
    reference = oracle()
    wide, residuals = rows(width, tokens, 2 * width + 16, dtype), rows(width + 1, tokens, width + 16, dtype)
    weights = rows(width + 2, 2, width, dtype) * 0.1
    post_weight, weight = weights[0].clone(), weights[1].clone()
    for offset in (0, 3):
        name = f"{width} {dtype} {fmt} +{offset}"
        x, gated = wide[:, offset : offset + width], wide[:, offset : offset + 2 * width]
        if offset == 0:
            x, gated = x.contiguous(), gated.contiguous()
        for bound in (None, torch.tensor([0.7])):
            ub = None if bound is None else there(bound)
            checks.same(
                f"per_token_quant {name}",
                ops.per_token_quant_fp8(there(x), fmt, ub),
                reference.per_token_quant_fp8(x, fmt, bound),
            )
        gate, up = gated.float().tensor_split(2, dim=1)
        # 1 + tanh(u) of a negative u has lost its digits.
        slack = (gate * up).abs() * 2**-22
        checks.near(
            f"gelu {name}",
            ops.gelu_tanh_and_mul_quant_fp8(there(gated), fmt),
            reference.gelu_tanh_and_mul_quant_fp8(gated, fmt),
            slack,
        )
        checks.near(
            f"silu {name}",
            ops.silu_and_mul_quant_fp8(there(gated), fmt),
            reference.silu_and_mul_quant_fp8(gated, fmt),
            (gate * up).abs() * 2**-22,
        )
        checks.close(
            f"norm {name}",
            ops.gemma_rms_norm(there(x), there(weight), EPS),
            reference.gemma_rms_norm(x, weight, EPS),
        )
        for norm in ("gemma_rms_norm_quant_fp8", "rms_norm_quant_fp8"):
            for with_residual in (False, True):
                before = residuals[:, offset : offset + width]
                mine, theirs = (there(before), before.clone()) if with_residual else (None, None)
                total = x.float() + (before.float() if with_residual else 0.0)
                normed = total * torch.rsqrt(total.pow(2).mean(dim=1, keepdim=True) + EPS)
                # Gemma's is rounded once; the other one before it is multiplied, too.
                places = 0.0 if norm.startswith("gemma") else 2 * torch.finfo(dtype).eps
                checks.near(
                    f"{norm} {name}",
                    getattr(ops, norm)(there(x), there(weight), EPS, fmt, mine),
                    getattr(reference, norm)(x, weight, EPS, fmt, theirs),
                    (normed * weight.float()).abs() * places,
                )
                if mine is not None and theirs is not None:
                    checks.close(f"residual of {norm} {name}", mine, theirs)
        mine, theirs = there(residuals[:, :width]), residuals[:, :width].clone()
        # A last place of the first norm's result may all but cancel the residual.
        normed = reference.gemma_rms_norm(x, post_weight, EPS).float()
        total = (normed + theirs.float()).pow(2).mean(dim=1, keepdim=True)
        last_place = normed.abs() * (2 * torch.finfo(dtype).eps) * torch.rsqrt(total + EPS)
        checks.near(
            f"two norms {name}",
            ops.gemma_norm_add_norm_quant_fp8(there(x), there(post_weight), mine, there(weight), EPS, fmt),
            reference.gemma_norm_add_norm_quant_fp8(x, post_weight, theirs, weight, EPS, fmt),
            last_place * (1.0 + weight.float()).abs(),
        )
        checks.close(f"residual of two norms {name}", mine, theirs)


def special(dtype: torch.dtype, width: int) -> torch.Tensor:
    """Rows of values that arithmetic treats apart."""
    info = torch.finfo(dtype)
    numbers = [0.0, -0.0, info.smallest_normal, -info.smallest_normal / 2, info.max, -info.max, 1.0, -3.5]
    values: list[list[float]] = [
        [math.nan, *numbers],
        [math.inf, *numbers],
        [math.nan, math.inf, -math.inf, *numbers],
        [math.nan],
        [-0.0],
        numbers[:2],
    ]
    return torch.tensor([(row * width)[:width] for row in values], dtype=torch.float64).to(dtype)


def _cases(widths: tuple[int, ...]) -> Iterator[tuple[int, torch.dtype, torch.dtype]]:
    for width in widths:
        for dtype in DTYPES:
            for fmt in FORMATS:
                yield width, dtype, fmt


def main(library: str, *, small: bool) -> None:
    """Checks everything, and says how many comparisons there were and which failed."""
    ops, checks, reference = load(library), Checks(), oracle()
    for width, dtype, fmt in _cases(_SMALL_WIDTHS if small else _WIDTHS):
        check(ops, width, dtype, fmt, checks, 3 if small else 5)
        x = special(dtype, width)
        for bound in (None, torch.tensor([1e-30]), torch.tensor([math.inf])):
            checks.same(
                f"special {width} {dtype} {fmt}",
                ops.per_token_quant_fp8(there(x), fmt, None if bound is None else there(bound)),
                reference.per_token_quant_fp8(x, fmt, bound),
            )
    if not small:
        # More blocks than run at once, and heads of tokens as q and k are.
        check(ops, 3840, torch.bfloat16, FORMATS[0], checks, 4096)
        heads = rows(1, 300, 24 * 256, torch.bfloat16).view(300, 24, 256)[:, :16]
        weight = rows(2, 1, 256, torch.bfloat16)[0]
        checks.close(
            "norm of heads",
            ops.gemma_rms_norm(there(heads), there(weight), EPS),
            reference.gemma_rms_norm(heads, weight, EPS),
        )
        cos_sin, positions = rows(3, 50, 256, torch.bfloat16), torch.arange(300) % 50
        for gemma, weights in (
            (True, (weight, -weight)),
            (False, (1.0 + weight, weight)),
            (False, (None, None)),
        ):
            mine, theirs = (
                there(rows(1, 300, 24 * 256, torch.bfloat16)),
                rows(1, 300, 24 * 256, torch.bfloat16),
            )
            there_weights = [None if w is None else there(w) for w in weights]
            ops.qk_norm_rope(mine, *there_weights, EPS, gemma, there(positions), there(cos_sin), 12, 4, 256)
            reference.qk_norm_rope(theirs, *weights, EPS, gemma, positions, cos_sin, 12, 4, 256)
            checks.close("norm and rotation of heads", mine, theirs)
    say({"ok": not checks.wrong, "comparisons": checks.count, "wrong": checks.wrong[:50]})


if __name__ == "__main__":
    main(sys.argv[1], small="--small" in sys.argv)
