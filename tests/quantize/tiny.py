"""Tiny checkpoints of families, with random weights, as they would be published."""

import re
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.quantize.families import TEXT, Family


def write(family: Family, directory: Path) -> None:
    """A checkpoint whose channels differ in size, so that a scale that is lost is noticed."""
    torch.manual_seed(0)
    model_class = getattr(transformers, family.architecture)
    model = model_class(model_class.config_class(**family.config)).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                continue
            rows = torch.rand(parameter.shape[:-1], dtype=torch.float32).mul(1.5).add(0.5).unsqueeze(-1)
            drawn = torch.randn(parameter.shape) * rows / parameter.shape[-1] ** 0.5
            parameter.copy_(drawn.to(parameter.dtype))
    model.save_pretrained(directory)
    _write_as_published(directory, family.architecture)
    _write_tokenizer(directory, TEXT["vocab_size"])


def _write_as_published(directory: Path, architecture: str) -> None:
    """Does to a checkpoint what published ones have, transformers 5 does not write, and vLLM asks for.

    Towers of CLIP and SigLIP have a level more, Qwen 2 Audio's text one less; Qwen 3 VL's experts lie the
    other way round.
    """
    path = directory / "model.safetensors"
    tensors = load_file(path)
    if any(".embeddings.position_embedding." in name for name in tensors):
        more = r"\1vision_tower.vision_model."
        tensors = {re.sub(r"(^|\.)vision_tower\.", more, name): tensor for name, tensor in tensors.items()}
    tensors = {name.replace(".model.model.", ".model."): tensor for name, tensor in tensors.items()}
    if architecture.startswith("Qwen3VLMoe"):
        stacked = {name: tensor.mT.contiguous() for name, tensor in tensors.items() if ".experts." in name}
        tensors |= stacked
    save_file(tensors, path, {"format": "pt"})


def _write_tokenizer(directory: Path, vocabulary: int) -> None:
    """One that nobody uses; models that see or hear ask for it all the same."""
    words = {f"t{number}": number for number in range(vocabulary)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=model, pad_token="t0").save_pretrained(directory)
