"""What vLLM's renderer does to conversations and says about templates."""

import contextlib
import dataclasses
import functools
import inspect
import logging
from collections.abc import Iterator
from typing import Any


def is_dropped_from_system(text: str) -> bool:
    """Whether vLLM would take a system message's first line for some client's own header, and drop it."""
    from vllm.renderers.chat_utils import _CLAUDE_CODE_BILLING_HEADER

    return text.startswith(_CLAUDE_CODE_BILLING_HEADER)


def picture_placeholder(model: Any) -> str | None:
    """What stands for a picture in prompts of a model (vLLM's ModelConfig); None where there is nothing."""
    from vllm.model_executor.model_loader import get_model_cls

    if not model.is_multimodal_model:
        return None
    try:
        placeholder: str | None = get_model_cls(model).get_placeholder_str("image", 1)
    except ValueError:
        # It takes something else.
        return None
    return placeholder


def find_pictures_before_line_breaks() -> None:
    """Makes vLLM's processor for Gemma 3 find pictures in front of a single line break, in this process.

    There are two line breaks behind a picture, which become one token with a third. vLLM takes that for one
    line break with two behind it, as in front of a picture, and then misses the picture.
    """
    from vllm.model_executor.models.gemma3_mm import Gemma3MultiModalProcessor

    stock = inspect.unwrap(Gemma3MultiModalProcessor._find_mm_placeholders)

    @functools.wraps(stock)
    def find_mm_placeholders(self: Any, new_token_ids: list[int], mm_prompt_updates: Any) -> Any:
        vocabulary = self.info.get_tokenizer().get_vocab()
        one, two, three = (vocabulary["\n" * count] for count in (1, 2, 3))
        end = self.info.get_hf_config().eoi_token_index
        split: list[int] = []
        places: list[int] = []
        for place, token in enumerate(new_token_ids):
            behind = token == three and place > 0 and new_token_ids[place - 1] == end
            tokens = [two, one] if behind else [token]
            split += tokens
            places += [place] * len(tokens)
        found = stock(self, split, mm_prompt_updates)
        return {
            modality: [dataclasses.replace(each, start_idx=places[each.start_idx]) for each in pictures]
            for modality, pictures in found.items()
        }

    Gemma3MultiModalProcessor._find_mm_placeholders = find_mm_placeholders


@contextlib.contextmanager
def unsaid_about_templates() -> Iterator[None]:
    """Keeps vLLM from warning of what a template refuses while Octet finds out what it takes."""
    log = logging.getLogger("vllm.renderers.hf")
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = False
