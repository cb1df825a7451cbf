"""The product with the vocabulary, which stays bf16 in FP8 checkpoints. Importing this imports vLLM."""

import torch
from vllm import _custom_ops
from vllm.platforms import current_platform

from octet.engine.vllm import compat
from octet.engine.vllm.inside import bf16_layers

# Rows and columns of the blocks that the kernel's packed weights consist of.
_BLOCK_ROWS, _BLOCK_COLUMNS = 16, 32


class PackedProduct:
    """Multiplies by a weight through a kernel of vLLM's own that reads it as fast as memory gives it.

    vLLM takes this kernel for layers up to a few MB, and only beside AMX; larger ones get oneDNN's, which
    takes up to half as long again for the few rows of a decoding step. From 32 rows up, oneDNN's takes a
    twentieth less.
    """

    def __init__(self) -> None:
        self._packed: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [..., K] times weight [N, K], plus bias [N], in the dtype of x.

        The first call packs the weight: nothing is multiplied by an embedding that an output layer is tied
        to, so it needs no packed copy of its own.
        """
        if self._packed is None:
            self._packed = torch.ops._C.convert_weight_packed(weight)
        if bias is not None:
            bias = bias.to(torch.float32)
        out: torch.Tensor = _custom_ops.weight_packed_linear_cpu(x, self._packed, weight.shape[0], bias)
        return out


def prepare(layer: torch.nn.Module) -> bool:
    """Makes an unquantized embedding or output layer multiply by its packed weight, or with Octet's kernel.

    Returns:
        False where it can do neither.
    """
    return _pack(layer) or bf16_layers.prepare(layer)


def register() -> None:
    """Makes vLLM ask `prepare` about output layers that are not quantized."""
    compat.layers.prepare_output_layers(prepare)


def _pack(layer: torch.nn.Module) -> bool:
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    if weight.is_meta or weight.dtype != torch.bfloat16 or not _has_kernel():
        return False
    if weight.shape[0] % _BLOCK_ROWS or weight.shape[1] % _BLOCK_COLUMNS:
        return False
    layer.cpu_linear = PackedProduct()  # type: ignore[assignment]
    return True


def _has_kernel() -> bool:
    """Where there is AMX, oneDNN uses it too; which is faster there has not been measured."""
    return (
        torch.cpu._is_avx512_bf16_supported()
        and not torch.cpu._is_amx_tile_supported()
        and not current_platform.is_zen_cpu()
        and hasattr(torch.ops._C, "convert_weight_packed")
    )
