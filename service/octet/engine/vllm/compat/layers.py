"""How Octet gets into the layers that vLLM builds models of."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def prepare_new(layer: type[Any], prepare: Callable[[Any], None]) -> None:
    """Makes `prepare` be called with every new object of just this class of vLLM's, no subclass's.

    The object is whole then, and its weights are not loaded yet.
    """
    stock = inspect.unwrap(layer.__init__)

    @functools.wraps(stock)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        if type(self) is layer:
            prepare(self)

    layer.__init__ = init


def replace_forward(layer: type[Any], forward: Callable[..., Any]) -> None:
    """Makes `forward`, called with vLLM's own and its arguments, take the place of vLLM's own.

    Subclasses that have one of their own keep it.
    """
    stock = inspect.unwrap(layer.forward)

    @functools.wraps(stock)
    def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(stock, self, *args, **kwargs)

    layer.forward = replaced
