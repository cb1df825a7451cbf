"""What vLLM's model classes call the modules that checkpoints name."""

from collections.abc import Sequence
from typing import Any

from octet.loading.contents import Renaming


def renaming(architectures: Sequence[str]) -> Renaming:
    """The names that vLLM gives to what a checkpoint of these architectures holds; imports vLLM.

    Those of the checkpoint where vLLM does not know the architecture, or keeps its names.
    """
    mapper = getattr(_model_class(architectures), "hf_to_vllm_mapper", None)
    if mapper is None:
        return Renaming()
    # Without what it does to tensors that it puts together: q_proj stays q_proj.
    rename = mapper.get_rename_mapper().map_name
    return Renaming(tensor=rename, said=rename)


def _model_class(architectures: Sequence[str]) -> Any:
    from vllm import ModelRegistry

    for name in architectures:
        if name in ModelRegistry.models:
            return ModelRegistry.models[name].load_model_cls()
    return None
