"""When vLLM has loaded a model's weights, whatever loads them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def when_loaded(act: Callable[[Any, Any], None]) -> None:
    """Makes vLLM call `act` with every model whose weights it has loaded, and with its ModelConfig, before
    the layers' quantization methods make of the weights what they compute with.

    By then it is settled which layers share a weight: vLLM's last look at that is where this comes in.
    """
    from vllm.model_executor.model_loader import utils

    stock = inspect.unwrap(utils.maybe_retie_word_embeddings)

    @functools.wraps(stock)
    def retie(model: Any, model_config: Any) -> None:
        stock(model, model_config)
        act(model, model_config)

    utils.maybe_retie_word_embeddings = retie
