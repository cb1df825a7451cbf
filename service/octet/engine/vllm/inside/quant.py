"""vLLM's activation quantization with Octet's kernel in it. Importing this module imports vLLM."""

from typing import Any

import torch
import torch.nn.functional as F
from vllm.logger import init_logger
from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape
from vllm.platforms import current_platform

from octet.engine.vllm import kernels

logger = init_logger("vllm.plugins.octet")


class OctetQuantFP8(QuantFP8):  # type: ignore[misc]
    """Dynamic per-token quantization through torch.ops.octet; static and group quantization stay vLLM's."""

    def __init__(self, static: bool, group_shape: GroupShape, *args: Any, **kwargs: Any) -> None:
        super().__init__(static, group_shape, *args, **kwargs)
        self.uses_octet = not static and group_shape == GroupShape.PER_TOKEN
        self.fp8_dtype = current_platform.fp8_dtype()
        if self.uses_octet:
            # "global": in every worker, not in the first only.
            active = kernels.describe(current_platform.device_type)
            logger.info_once("octet kernels active: %s", active, scope="global")

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
