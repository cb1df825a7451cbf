"""Where vLLM makes tokenizers and processors of pictures, and how it is made to make fewer."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

# The tokenizer around which a processor of pictures is being made.
_GIVEN: ContextVar[Any] = ContextVar("given tokenizer", default=None)

# What a processor is told with every call as well, so that none has to be made for a request that says it.
_SAID_WITH_EVERY_CALL = {"Gemma3Processor": frozenset({"do_pan_and_scan"})}


def share_processors() -> None:
    """Makes vLLM make its processors of pictures around the tokenizer that is there.

    vLLM lets transformers load another tokenizer with each of them, only to throw it away, and transformers
    copies the one that is given several times meanwhile: half a minute of processor time and hundreds of MB
    with a vocabulary of 262,144. Does nothing where it was done before.
    """
    from transformers import AutoTokenizer, ProcessorMixin
    from vllm.transformers_utils import processor

    stock = processor.cached_get_processor_without_dynamic_kwargs
    if hasattr(stock, "octet_stock"):
        return
    load_tokenizer = AutoTokenizer.from_pretrained

    def take_tokenizer(*args: Any, **kwargs: Any) -> Any:
        # A processor's further tokenizers lie in folders of their own.
        given = None if kwargs.get("subfolder") else _GIVEN.get()
        return load_tokenizer(*args, **kwargs) if given is None else given

    @functools.lru_cache
    def load(tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
        return processor.get_processor(*args, **kwargs)

    def share(*args: Any, processor_cls: Any, tokenizer: Any = None, **kwargs: Any) -> Any:
        said = _SAID_WITH_EVERY_CALL.get(getattr(processor_cls, "__name__", ""), ())
        kwargs = {key: value for key, value in kwargs.items() if key not in said}
        # What is no processor of transformers' takes its tokenizer in a way of its own.
        if tokenizer is not None and _is_a(processor_cls, ProcessorMixin):
            made = _with_tokenizer(tokenizer, stock, *args, processor_cls=processor_cls, **kwargs)
            if getattr(made, "tokenizer", None) is tokenizer:
                return made
        return stock(*args, processor_cls=processor_cls, tokenizer=tokenizer, **kwargs)

    share.octet_stock = stock  # type: ignore[attr-defined]
    AutoTokenizer.from_pretrained = staticmethod(take_tokenizer)
    processor.cached_get_processor = lambda *args, **kwargs: load(_GIVEN.get(), *args, **kwargs)
    processor.cached_get_processor_without_dynamic_kwargs = share


def _with_tokenizer(tokenizer: Any, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `make` makes, while whoever would load a tokenizer gets this one."""
    token = _GIVEN.set(tokenizer)
    try:
        return make(*args, **kwargs)
    finally:
        _GIVEN.reset(token)


def _is_a(wanted: Any, base: type[Any]) -> bool:
    """Whether whatever vLLM would take is of that class."""
    return all(issubclass(kind, base) for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))


def share_tokenizer() -> None:
    """Makes the threads of vLLM's renderer share one tokenizer, instead of each having a copy of its own.

    A copy takes seconds and a hundred MB, and vLLM makes another whenever more threads use the tokenizer than
    ever before. They only have copies because transformers notes in a tokenizer what length the texts of a
    call are to be cut to, which another thread's call would be cut to, too. So nothing is cut any more: vLLM
    tells the length of what has become of a text all the same, and cuts the tokens itself where it is to.
    """
    from vllm.renderers import hf
    from vllm.renderers.params import TokenizeParams

    TokenizeParams.get_encode_kwargs = lambda self: {
        "truncation": False,
        "add_special_tokens": self.add_special_tokens,
    }
    hf.maybe_make_thread_pool = lambda tokenizer, copies=1: _unchangeable(tokenizer)
    # Loads a processor, too, where it looks for a chat template.
    hf._try_get_processor_chat_template = _around_its_tokenizer(hf._try_get_processor_chat_template)


def _around_its_tokenizer(find: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a tokenizer that loads no other one; the same where it is that already."""
    if hasattr(find, "octet_stock"):
        return find

    def around(tokenizer: Any, **kwargs: Any) -> Any:
        return _with_tokenizer(tokenizer, find, tokenizer, **kwargs)

    around.octet_stock = find  # type: ignore[attr-defined]
    return around


def _unchangeable(tokenizer: Any) -> Any:
    """The tokenizer itself, which from now on refuses to note anything that all who use it would feel."""
    from transformers import TokenizersBackend
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils.generic import PaddingStrategy

    if not isinstance(tokenizer, TokenizersBackend):
        return tokenizer

    class Shared(tokenizer.__class__):  # type: ignore[misc]
        def set_truncation_and_padding(
            self, padding_strategy: Any, truncation_strategy: Any, **_: Any
        ) -> None:
            if truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE:
                raise ValueError("a tokenizer that threads share cannot cut texts")
            if padding_strategy != PaddingStrategy.DO_NOT_PAD:
                raise ValueError("a tokenizer that threads share cannot fill texts up")

    Shared.__name__ = f"Shared{type(tokenizer).__name__}"
    tokenizer._tokenizer.no_truncation()
    tokenizer._tokenizer.no_padding()
    tokenizer.__class__ = Shared
    return tokenizer


@contextlib.contextmanager
def unsaid_about_crops() -> Iterator[None]:
    """Keeps vLLM from warning of pan and scan while Octet itself uses it; later it warns as ever."""
    from vllm import logger

    gemma3 = logging.getLogger("vllm.model_executor.models.gemma3_mm")
    gemma3.disabled = True
    try:
        yield
    finally:
        gemma3.disabled = False
        # What vLLM says once only it would take for said.
        logger._print_warning_once.cache_clear()
