"""When a checkpoint without an output layer is refused: never where vLLM would share the embedding."""

from itertools import product
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from octet.loading import rules
from octet.loading.contents import Contents
from octet.loading.headers import Tensor

TIED = "tie_word_embeddings"

SEEING = (
    *("aya_vision", "gemma3", "gemma3n", "gemma4", "idefics3", "internvl", "llama4", "llava", "llava_next"),
    *("llava_onevision", "mistral3", "paligemma", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"),
    *("smolvlm", "vipllava"),
)
TEXT = ("cohere2", "gemma2", "gemma3_text", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3")


def refused(config: dict[str, Any]) -> bool:
    """Whether a checkpoint of an embedding alone is refused."""
    name = "model.embed_tokens.weight"
    speaking = config | {"architectures": ["SomeForConditionalGeneration"]}
    contents = Contents(speaking, None, {name: Tensor(name, "BF16", (64, 32))})
    return any("no output layer" in problem for problem in rules.missing_output_layer(contents))


def saying(value: bool | None) -> dict[str, Any]:
    return {} if value is None else {TIED: value}


@pytest.mark.parametrize("model_type", SEEING)
@pytest.mark.parametrize(("top", "text"), product((None, True, False), repeat=2))
def test_a_model_of_several_parts(model_type: str, top: bool | None, text: bool | None) -> None:
    written = {"model_type": model_type, **saying(top), "text_config": saying(text)}
    shares = CONFIG_MAPPING[model_type].from_dict(written).tie_word_embeddings
    if refused(written):
        assert not shares
    if top is False and text is not True:
        assert refused(written)
    if model_type in rules.UNTIED_BY_DEFAULT and True not in (top, text):
        assert refused(written)


@pytest.mark.parametrize("model_type", TEXT)
@pytest.mark.parametrize("said", [None, True, False])
def test_a_model_of_text(model_type: str, said: bool | None) -> None:
    written = {"model_type": model_type, **saying(said)}
    shares = CONFIG_MAPPING[model_type].from_dict(written).tie_word_embeddings
    if said is None and model_type not in rules.UNTIED_BY_DEFAULT:
        assert not refused(written)
    else:
        assert refused(written) is not shares
