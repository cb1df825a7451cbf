"""How Octet gets into the layers that vLLM builds models of."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def tell_new(kind: type[Any], tell: Callable[[Any], None]) -> None:
    """Makes `tell` be called with every new object of a class of vLLM's, when its own __init__ has run."""
    stock = inspect.unwrap(kind.__init__)

    @functools.wraps(stock)
    def told(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        tell(self)

    kind.__init__ = told


def prepare_new(layer: type[Any], prepare: Callable[[Any], None]) -> None:
    """Makes `prepare` be called with every new object of just this class of vLLM's, no subclass's.

    The object is whole then, and its weights are not loaded yet.
    """
    tell_new(layer, lambda new: prepare(new) if type(new) is layer else None)


def replace_forward(layer: type[Any], forward: Callable[..., Any]) -> None:
    """Makes `forward`, called with vLLM's own and its arguments, take the place of vLLM's own.

    Subclasses that have one of their own keep it.
    """
    stock = inspect.unwrap(layer.forward)

    @functools.wraps(stock)
    def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(stock, self, *args, **kwargs)

    layer.forward = replaced


def prepare_output_layers(prepare: Callable[[Any], bool]) -> None:
    """Makes vLLM ask `prepare` to make an unquantized embedding or output layer ready for products.

    Where that answers False, vLLM does it as ever.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    _prepare_weights(UnquantizedEmbeddingMethod, prepare)


def prepare_linear_layers(prepare: Callable[[Any], bool]) -> None:
    """The same of linear layers that are not quantized, but for those that vLLM packs for nobody."""
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    _prepare_weights(
        UnquantizedLinearMethod,
        lambda layer: not getattr(layer, "_cpu_skip_gemm_dispatch", False) and prepare(layer),
    )


def _prepare_weights(method: type[Any], prepare: Callable[[Any], bool]) -> None:
    stock = inspect.unwrap(method.process_weights_after_loading)

    @functools.wraps(stock)
    def process(self: Any, layer: Any) -> None:
        if not prepare(layer):
            stock(self, layer)

    method.process_weights_after_loading = process
