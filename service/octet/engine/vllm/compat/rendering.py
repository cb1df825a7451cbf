"""What vLLM's renderer does to conversations and says about templates."""

import contextlib
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


@contextlib.contextmanager
def unsaid_about_templates() -> Iterator[None]:
    """Keeps vLLM from warning of what a template refuses while Octet finds out what it takes."""
    log = logging.getLogger("vllm.renderers.hf")
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = False
