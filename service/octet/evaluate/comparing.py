"""What comparisons of running models share: what they tell meanwhile, and what keeps them from being made."""

from collections.abc import Callable, Sequence

from octet.engine.vllm.serving.scoring import load_texts
from octet.errors import OctetError

Progress = Callable[[str, int, int], None]
"""Told of a model, how many things are done and how many there are: of none at all while it is loaded."""


class EvaluationError(OctetError):
    """A comparison cannot be made. The message is one line."""

    reason = "EVALUATION"


def check_tokens(
    source: str, others: Sequence[str], texts: Sequence[str], engine_flags: Sequence[str]
) -> None:
    """Makes sure that texts are the same tokens to all models, before any of them is started.

    Raises:
        EvaluationError: they are not to one of them.
        StartupError: there is no such model, or its tokenizer cannot be read.
    """
    known = load_texts(source, engine_flags)
    expected = [known.opening, *map(known.tokenize, texts)]
    for name in others:
        found = load_texts(name, engine_flags)
        if [found.opening, *map(found.tokenize, texts)] != expected:
            raise EvaluationError(f"{name} has another tokenizer than {source}")
