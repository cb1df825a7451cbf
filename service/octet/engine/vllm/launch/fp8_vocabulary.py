"""Whether the output layer of a model can be in FP8 here, before anything is loaded for it."""

from typing import TYPE_CHECKING

from octet.engine.vllm import formats, kernels
from octet.errors import StartupError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

FLAG = "--fp8-vocabulary"


def check(config: "VllmConfig") -> None:
    """Looks at what --fp8-vocabulary asks for; what only the loaded model can tell, its loading does.

    Raises:
        StartupError: with one line, when the flag could not have an effect.
    """
    model = config.model_config
    if not formats.asks_for_fp8_vocabulary(config.additional_config):
        return
    if model.runner_type == "pooling":
        raise StartupError(f"{FLAG}: {model.model} makes vectors, and has no output layer; leave it out")
    if not kernels.wanted():
        raise StartupError(
            f"{FLAG}: needs Octet's kernels, and {kernels.SWITCH}=off leaves vLLM's own; unset it"
        )
    if model.head_dtype != model.dtype:
        raise StartupError(
            f"{FLAG}: the model's config wants logits of {model.head_dtype} products (head_dtype), where FP8 "
            f"gives {model.dtype}; leave one of the two out"
        )
