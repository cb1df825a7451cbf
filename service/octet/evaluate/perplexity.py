"""Runs a source and its quantized forms over the same texts, one after the other."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from octet.engine.vllm.serving.scoring import Scorer, TokenScores, scorer
from octet.errors import OctetError
from octet.evaluate.divergence import Divergence, summarize
from octet.evaluate.windows import Window, windows

WHOLE_VOCABULARY = 8192
"""Vocabularies up to this size are compared whole by default."""

TOP = 256
"""Most probable tokens that are compared of larger ones by default."""

Progress = Callable[[str, int, int], None]
"""Told of a model, how many windows are scored and how many there are: of none at all while it is loaded."""


class EvaluationError(OctetError):
    """A text cannot be scored. The message is one line."""

    reason = "EVALUATION"


@dataclass(frozen=True, slots=True)
class Settings:
    """How texts are scored.

    Attributes:
        window: most tokens of a prompt.
        stride: tokens by which the window moves.
        top: how many of the most probable tokens are compared at each place, 0 for the whole vocabulary;
            None chooses.
        engine_flags: vLLM's flags for every model.
        quantized_flags: flags for the quantized ones besides.
    """

    window: int
    stride: int
    top: int | None
    engine_flags: tuple[str, ...] = ()
    quantized_flags: tuple[str, ...] = ()


async def evaluate(
    source: str, quantized: Sequence[str], documents: Sequence[str], settings: Settings, progress: Progress
) -> list[Divergence]:
    """Scores the documents with each model, the source first; no two run at the same time.

    Returns:
        What each quantized model does differently.

    Raises:
        EvaluationError: nothing to score, the window does not fit, or a model's tokens are not the source's.
        StartupError: a model cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="octet-eval-") as folder:
        reference = _Stored(Path(folder))
        progress(source, 0, 0)
        async with scorer(source, settings.engine_flags) as model:
            prompts = _prompts(model, documents, settings)
            top, vocab_size = _top(settings.top, model.vocab_size), model.vocab_size
            for number, window in enumerate(prompts):
                reference.write(number, await _score(model, window, top))
                progress(source, number + 1, len(prompts))
        results = []
        for name in quantized:
            scores = _Stored(Path(folder))
            progress(name, 0, 0)
            async with scorer(name, (*settings.engine_flags, *settings.quantized_flags)) as model:
                if model.vocab_size != vocab_size or _prompts(model, documents, settings) != prompts:
                    raise EvaluationError(f"{name} has another tokenizer than {source}")
                for number, window in enumerate(prompts):
                    scores.write(number, await _score(model, window, top))
                    progress(name, number + 1, len(prompts))
            pairs = zip(reference.read(len(prompts)), scores.read(len(prompts)), strict=True)
            results.append(summarize(pairs, vocab_size))
        return results


def _prompts(model: Scorer, documents: Sequence[str], settings: Settings) -> list[Window]:
    # One token of the context belongs to the answer.
    length = min(settings.window, model.context_window - 1)
    if length <= len(model.opening) + 1:
        raise EvaluationError(f"a window of {length} tokens is too short")
    stride = min(settings.stride, length - len(model.opening) - 1)
    found = [
        window
        for document in documents
        for window in windows(model.tokenize(document), model.opening, length, stride)
    ]
    if not found:
        raise EvaluationError("the text holds nothing to score")
    return found


def _top(wanted: int | None, vocab_size: int) -> int:
    if wanted is None:
        wanted = 0 if vocab_size <= WHOLE_VOCABULARY else TOP
    return min(wanted, vocab_size) or vocab_size


async def _score(model: Scorer, window: Window, top: int) -> TokenScores:
    scores = await model.score(window.tokens, top)
    last = slice(-window.scored, None)
    return TokenScores(
        scores.ids[last], scores.logprobs[last], scores.top_ids[last], scores.top_logprobs[last]
    )


class _Stored:
    """Scores on disk, a file a window: a whole text's would not fit into memory."""

    def __init__(self, parent: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=parent))

    def write(self, number: int, scores: TokenScores) -> None:
        np.savez(self._path(number), **{field.name: getattr(scores, field.name) for field in fields(scores)})

    def read(self, count: int) -> Iterator[TokenScores]:
        for number in range(count):
            with np.load(self._path(number)) as arrays:
                yield TokenScores(**arrays)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.npz"
