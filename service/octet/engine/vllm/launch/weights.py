"""Refuses weights that vLLM would load as something else than they are, or stop at halfway through."""

from pathlib import Path
from typing import TYPE_CHECKING

from octet.engine.vllm.checkpoint import content_obstacles, contents_of, read_checkpoint, read_tensors
from octet.errors import StartupError
from octet.weight_index import CheckpointError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_FROM_FILES = ("auto", "hf", "safetensors")


def check(config: "VllmConfig") -> None:
    """Compares what config.json says of quantization with the files, where they are on this machine.

    Raises:
        StartupError: they contradict each other, or vLLM has no kernel for them; with the first reason.
    """
    model = config.model_config
    if model.revision and not Path(model.model).is_dir():
        return  # another one may lie in the cache
    if config.load_config.load_format not in _FROM_FILES or model.hf_overrides or model.model_weights:
        return
    try:
        checkpoint = read_checkpoint(model.model)
        contents = contents_of(checkpoint, read_tensors(checkpoint))
    except CheckpointError:
        return  # not downloaded yet, or nothing that could be looked into; vLLM says what it lacks
    if found := content_obstacles(contents, config.device_config.device_type):
        raise StartupError(f"cannot serve {model.model}: {found[0]} (octet inspect says more)")
