"""What is measured: each kernel on a shape, and what stands beside it in the same run.

torch.ops.octet must be there: whoever measures loads it, from the package or from a build of its own.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from octet.bench import machine, roofs
from octet.bench.shapes import LinearShape

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
EPS = 1e-6

Function = Callable[[], object]
Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel on one shape.

    Functions of microseconds are partial objects, so that neither the frame of a lambda nor the search for an
    operator's name is measured with them.

    Attributes:
        kernel: the operator's name in torch.ops.octet.
        shape: the shape's name.
        rows: tokens.
        bytes_moved: that the kernel has to read and to write.
        flops: multiplications and additions of a product; 0 for kernels that move data.
        functions: "octet", and what is compared with it by name.
    """

    kernel: str
    shape: str
    rows: int
    bytes_moved: int
    flops: int
    functions: dict[str, Function]


def eager_quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token quantization as torch's own operators do it, in the steps of vLLM's fallback."""
    values = x.to(torch.float32)
    scale = (values.abs().amax(dim=-1, keepdim=True) / FP8_MAX).clamp(min=1.0 / (FP8_MAX * 512.0))
    return (values * scale.reciprocal()).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


def eager_gemma_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gemma's RMSNorm of x + residual, and that sum, as torch's own operators do it."""
    total = x.to(torch.float32) + residual.to(torch.float32)
    values = total * torch.rsqrt(total.pow(2).mean(dim=-1, keepdim=True) + EPS)
    return (values * (1.0 + weight.to(torch.float32))).to(x.dtype), total.to(x.dtype)


def eager_gelu_tanh_and_mul(x: torch.Tensor) -> torch.Tensor:
    """Tanh-GELU of the left half times the right half."""
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def eager_silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """SiLU of the left half times the right half."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def eager_norm_quant(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The codes and scales of Gemma's RMSNorm of x + residual, and that sum."""
    normed, total = eager_gemma_rms_norm(x, weight, residual)
    return (*eager_quantize(normed), total)


def eager_plain_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gemma's RMSNorm of x as torch's own operators do it."""
    values = x.to(torch.float32)
    values = values * torch.rsqrt(values.pow(2).mean(dim=-1, keepdim=True) + EPS)
    return (values * (1.0 + weight.to(torch.float32))).to(x.dtype)


def eager_two_norms_quant(
    x: torch.Tensor, post_weight: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same after another norm of x: what lies between two sublayers."""
    return eager_norm_quant(eager_plain_norm(x, post_weight), weight, residual)


def eager_weighted_norm_quant(
    x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The codes and scales of the RMSNorm of x + residual that Llama and others have, and that sum."""
    total = x.to(torch.float32) + residual.to(torch.float32)
    values = total * torch.rsqrt(total.pow(2).mean(dim=-1, keepdim=True) + EPS)
    return (*eager_quantize(values.to(x.dtype) * weight), total.to(x.dtype))


def eager_gelu_quant(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes and scales of tanh-GELU of the left half times the right half."""
    return eager_quantize(eager_gelu_tanh_and_mul(x))


def eager_silu_quant(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes and scales of SiLU of the left half times the right half."""
    return eager_quantize(eager_silu_and_mul(x))


def per_token_quant(rows: int, width: int, device: str) -> Case:
    """Quantization of [rows, width], bf16."""
    x = _activations(rows, width, device)
    moved = rows * width * 3 + rows * 4
    functions: dict[str, Function] = {
        "octet": partial(torch.ops.octet.per_token_quant_fp8, x, FP8),
        "copy": _copy(moved, device),
        "eager": partial(eager_quantize, x),
    }
    return Case("per_token_quant_fp8", str(width), rows, moved, 0, functions)


def per_token_quant_out(rows: int, width: int, device: str) -> Case:
    """The same into tensors that are there already, as the copy's are: no memory is allocated or mapped."""
    x = _activations(rows, width, device)
    q = torch.empty(rows, width, dtype=FP8, device=device)
    scale = torch.empty(rows, 1, device=device)
    moved = rows * width * 3 + rows * 4

    into = torch.ops.octet.per_token_quant_fp8_out

    def quantize() -> tuple[torch.Tensor, torch.Tensor]:
        into(x, None, q=q, scale=scale)
        return q, scale

    functions: dict[str, Function] = {
        "octet": quantize,
        "copy": _copy(moved, device),
        "eager": partial(eager_quantize, x),
    }
    return Case("per_token_quant_fp8_out", str(width), rows, moved, 0, functions)


def gemma_rms_norm_quant(rows: int, width: int, device: str) -> Case:
    """Residual addition, Gemma's RMSNorm and quantization of [rows, width], bf16."""
    x, residual = _activations(rows, width, device), _activations(rows, width, device)
    weight = _activations(1, width, device)[0]
    # Left at zero, the residual would stay what it is; the sum of many calls would overflow.
    x.zero_()
    moved = rows * width * 7 + rows * 4
    functions: dict[str, Function] = {
        "octet": partial(torch.ops.octet.gemma_rms_norm_quant_fp8, x, weight, EPS, FP8, residual),
        "copy": _copy(moved, device),
        "eager": partial(eager_norm_quant, x, weight, residual),
        "plain": _plain(rows, 2 * width, device),
    }
    return Case("gemma_rms_norm_quant_fp8", str(width), rows, moved, 0, functions)


def gemma_norm_add_norm_quant(rows: int, width: int, device: str) -> Case:
    """What lies between two sublayers of Gemma, of [rows, width], bf16."""
    x, residual = _activations(rows, width, device), _activations(rows, width, device)
    post_weight, weight = _activations(2, width, device)
    x.zero_()  # for the residual's sake, as above
    moved = rows * width * 7 + rows * 4
    operator = torch.ops.octet.gemma_norm_add_norm_quant_fp8
    apart = partial(_norm_then_norm_quant, x, post_weight, residual, weight)
    functions: dict[str, Function] = {
        "octet": partial(operator, x, post_weight, residual, weight, EPS, FP8),
        "copy": _copy(moved, device),
        "eager": partial(eager_two_norms_quant, x, post_weight, residual, weight),
        "apart": apart,
    }
    return Case("gemma_norm_add_norm_quant_fp8", str(width), rows, moved, 0, functions)


def gemma_rms_norm(rows: int, width: int, device: str) -> Case:
    """Gemma's RMSNorm of [rows, width], bf16."""
    x = _activations(rows, width, device)
    weight = _activations(1, width, device)[0]
    moved = rows * width * 4
    functions: dict[str, Function] = {
        "octet": partial(torch.ops.octet.gemma_rms_norm, x, weight, EPS),
        "copy": _copy(moved, device),
        "eager": partial(eager_plain_norm, x, weight),
    }
    return Case("gemma_rms_norm", str(width), rows, moved, 0, functions)


def rms_norm_quant(rows: int, width: int, device: str) -> Case:
    """Residual addition, the RMSNorm of Llama and others, and quantization of [rows, width], bf16."""
    x, residual = _activations(rows, width, device), _activations(rows, width, device)
    weight = _activations(1, width, device)[0]
    x.zero_()  # for the residual's sake, as above
    moved = rows * width * 7 + rows * 4
    functions: dict[str, Function] = {
        "octet": partial(torch.ops.octet.rms_norm_quant_fp8, x, weight, EPS, FP8, residual),
        "copy": _copy(moved, device),
        "eager": partial(eager_weighted_norm_quant, x, weight, residual),
        "plain": _plain(rows, 2 * width, device),
    }
    return Case("rms_norm_quant_fp8", str(width), rows, moved, 0, functions)


def gelu_tanh_and_mul_quant(rows: int, width: int, device: str) -> Case:
    """Tanh-GELU, multiplication and quantization of [rows, 2 width] to [rows, width], bf16."""
    x = _activations(rows, 2 * width, device)
    moved = rows * width * 5 + rows * 4
    functions: dict[str, Function] = {
        "octet": partial(torch.ops.octet.gelu_tanh_and_mul_quant_fp8, x, FP8),
        "copy": _copy(moved, device),
        "eager": partial(eager_gelu_quant, x),
        "plain": _plain(rows, 2 * width, device),
    }
    return Case("gelu_tanh_and_mul_quant_fp8", str(width), rows, moved, 0, functions)


def silu_and_mul_quant(rows: int, width: int, device: str) -> Case:
    """SiLU, multiplication and quantization of [rows, 2 width] to [rows, width], bf16."""
    x = _activations(rows, 2 * width, device)
    moved = rows * width * 5 + rows * 4
    functions: dict[str, Function] = {
        "octet": partial(torch.ops.octet.silu_and_mul_quant_fp8, x, FP8),
        "copy": _copy(moved, device),
        "eager": partial(eager_silu_quant, x),
        "plain": _plain(rows, 2 * width, device),
    }
    return Case("silu_and_mul_quant_fp8", str(width), rows, moved, 0, functions)


ROW_KERNELS: dict[str, tuple[Callable[[int, int, str], Case], ...]] = {
    "per_token_quant_fp8": (per_token_quant, per_token_quant_out),
    "gemma_rms_norm_quant_fp8": (gemma_rms_norm_quant,),
    "gemma_norm_add_norm_quant_fp8": (gemma_norm_add_norm_quant,),
    "gemma_rms_norm": (gemma_rms_norm,),
    "rms_norm_quant_fp8": (rms_norm_quant,),
    "gelu_tanh_and_mul_quant_fp8": (gelu_tanh_and_mul_quant,),
    "silu_and_mul_quant_fp8": (silu_and_mul_quant,),
}
"""What makes the cases of each kernel: of its forms, if there are several."""


LINEAR_KERNELS = ("fp8_linear", "bf16_linear")
"""Those whose cases LinearOperands makes."""


class LinearOperands:
    """The weights of a linear layer, in FP8 and bf16, in as many copies as overflow the last-level cache.

    A model's layers take turns, so each finds its weights in memory; a benchmark that multiplies by the same
    weights over and over finds them in the cache.
    """

    def __init__(self, shape: LinearShape, of_vllm: Callable[[torch.Tensor], Product | None]) -> None:
        """Makes the weights.

        Args:
            shape: the layer.
            of_vllm: vLLM's own product with a bf16 weight, None where that is torch's.
        """
        self.shape = shape
        size = (shape.out_features, shape.in_features)
        magnitudes = torch.randint(0, 0x7F, size, dtype=torch.uint8)
        codes = magnitudes.bitwise_or_(torch.randint(0, 2, size, dtype=torch.uint8).mul_(0x80)).view(FP8)
        copies = math.ceil(2 * machine.l3_bytes() / codes.numel())
        self.codes = [codes, *(codes.clone() for _ in range(copies - 1))]
        half = codes.to(torch.bfloat16)
        self.half = [half, *(half.clone() for _ in range(math.ceil(copies / 2) - 1))]
        self.of_vllm = [product for product in map(of_vllm, self.half) if product is not None]
        self.scale = torch.rand(shape.out_features, 1) * 0.01

    def case(self, rows: int, *, with_stock: bool) -> Case:
        """The FP8 product with `rows` rows, to bf16; beside it, where asked for, what vLLM uses for FP8."""
        shape = self.shape
        x = _activations(rows, shape.in_features, "cpu")
        quantized: tuple[torch.Tensor, torch.Tensor] = torch.ops.octet.per_token_quant_fp8(x, FP8)
        xq, x_scale = quantized
        one = torch.ones(1)
        codes, stock_codes = itertools.cycle(self.codes), itertools.cycle(self.codes)
        half, of_vllm = itertools.cycle(self.half), itertools.cycle(self.of_vllm)
        read_codes = itertools.cycle(self.codes)

        def stock() -> torch.Tensor:
            product: torch.Tensor = torch._scaled_mm(
                xq, next(stock_codes).t(), scale_a=one, scale_b=one, out_dtype=torch.float32
            )
            return (product * x_scale * self.scale.t()).to(torch.bfloat16)

        functions: dict[str, Function] = {
            "octet": lambda: torch.ops.octet.fp8_linear(
                xq, x_scale, next(codes), self.scale, None, torch.bfloat16
            ),
            "read": lambda: roofs.read(next(read_codes)),
            "bf16": lambda: F.linear(x, next(half)),
        }
        if self.of_vllm:
            functions["vllm"] = lambda: next(of_vllm)(x)
        if with_stock:
            functions["stock"] = stock
        weights = shape.in_features * shape.out_features
        moved = weights + rows * shape.in_features + 2 * rows * shape.out_features + 4 * shape.out_features
        return Case("fp8_linear", shape.name, rows, moved, 2 * rows * weights, functions)

    def bf16_case(self, rows: int) -> Case:
        """The product of `rows` rows with the bf16 weights."""
        shape = self.shape
        x = _activations(rows, shape.in_features, "cpu")
        ours, theirs = itertools.cycle(self.half), itertools.cycle(self.half)
        of_vllm, read = itertools.cycle(self.of_vllm), itertools.cycle(self.half)
        functions: dict[str, Function] = {
            "octet": lambda: torch.ops.octet.bf16_linear(x, next(ours), None, torch.bfloat16),
            "read": lambda: roofs.read(next(read)),
            "bf16": lambda: F.linear(x, next(theirs)),
        }
        if self.of_vllm:
            functions["vllm"] = lambda: next(of_vllm)(x)
        weights = shape.in_features * shape.out_features
        moved = 2 * (weights + rows * (shape.in_features + shape.out_features))
        return Case("bf16_linear", shape.name, rows, moved, 2 * rows * weights, functions)


def row_cases(
    kernel: str, widths: Sequence[int], rows: Sequence[int], device: str
) -> Iterator["partial[Case]"]:
    """What makes the cases of one of ROW_KERNELS; each call makes the case anew, with memory of its own."""
    for make_case in ROW_KERNELS[kernel]:
        for width in widths:
            for count in rows:
                yield partial(make_case, count, width, device)


def _activations(rows: int, width: int, device: str) -> torch.Tensor:
    # On the device: a GPU's cases are made by the thousand.
    generator = torch.Generator(device).manual_seed(rows * width)
    return torch.randn(rows, width, generator=generator, device=device).to(torch.bfloat16)


def _copy(moved: int, device: str) -> Function:
    """A copy that reads and writes `moved` bytes together."""
    source = torch.ones(moved // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return partial(target.copy_, source)


def _norm_then_norm_quant(
    x: torch.Tensor, post_weight: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> object:
    """The same by two operators."""
    normed = torch.ops.octet.gemma_rms_norm(x, post_weight, EPS)
    quantized: object = torch.ops.octet.gemma_rms_norm_quant_fp8(normed, weight, EPS, FP8, residual)
    return quantized


def _plain(rows: int, width: int, device: str) -> Function:
    """Plain quantization that reads as many bytes as a fused kernel does."""
    x = _activations(rows, width, device)
    return partial(torch.ops.octet.per_token_quant_fp8, x, FP8)
