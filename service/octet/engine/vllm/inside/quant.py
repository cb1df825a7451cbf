"""vLLM's activation quantization with Octet's kernel in it. Importing this module imports vLLM.

Linear layers quantize through QuantFP8; layers of experts, and whatever else there is, through
`_custom_ops.scaled_fp8_quant`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from vllm.logger import init_logger
from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape
from vllm.platforms import current_platform

from octet.engine.vllm import compat, kernels

logger = init_logger("vllm.plugins.octet")


class OctetQuantFP8(QuantFP8):  # type: ignore[misc]
    """Dynamic per-token quantization through torch.ops.octet; static and group quantization stay vLLM's."""

    def __init__(self, static: bool, group_shape: GroupShape, *args: Any, **kwargs: Any) -> None:
        super().__init__(static, group_shape, *args, **kwargs)
        self.uses_octet = not static and group_shape == GroupShape.PER_TOKEN
        self.fp8_dtype = current_platform.fp8_dtype()

    def forward(
        self,
        x: torch.Tensor,
        scale: torch.Tensor | None = None,
        scale_ub: torch.Tensor | None = None,
        use_triton: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantizes x [T, K] to codes [max(T, num_token_padding), K] and f32 scales of as many rows by 1.

        Overridden instead of forward_cpu and forward_cuda: vLLM's compiled mode would take forward_native.
        """
        if not self.uses_octet or scale is not None:
            return super().forward(x, scale, scale_ub, use_triton)  # type: ignore[no-any-return]
        if self.num_token_padding is not None:
            x = F.pad(x, (0, 0, 0, max(self.num_token_padding - x.size(0), 0)))
        q, row_scale = torch.ops.octet.per_token_quant_fp8(x, self.fp8_dtype, scale_ub)
        return q, row_scale


def register() -> None:
    """Puts Octet's kernel wherever vLLM quantizes per token, and says in the log what comes of it."""
    # register_oot renames the class; what users switch with --compilation-config custom_ops keeps its name.
    name = QuantFP8.name
    QuantFP8.register_oot(OctetQuantFP8, name="QuantFP8")
    OctetQuantFP8.name = name
    compat.kernels.replace_per_token_quant(
        torch.ops.octet.per_token_quant_fp8, torch.ops.octet.per_token_quant_fp8_out
    )
    compat.kernels.tell_fp8_linear_kernels(_tell)


def _tell(kernel: Any) -> None:
    """Says of a linear layer's kernel whether Octet's run before it; each answer once."""
    if not (isinstance(kernel.quant_fp8, OctetQuantFP8) and kernel.quant_fp8.uses_octet):
        return
    # "global": in every worker, not in the first only.
    if compat.kernels.quantizes_activations(kernel):
        active = kernels.describe(compat.devices.platform())
        logger.info_once("octet kernels active: %s", active, scope="global")
    else:
        logger.info_once(
            "octet kernels idle: %s multiplies activations that are not quantized, as on GPUs below compute "
            "capability 8.9",
            type(kernel).__name__,
            scope="global",
        )
