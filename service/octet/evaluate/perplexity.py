"""Runs a source and its quantized forms over the same texts, one after the other."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from octet.engine.vllm.serving.scoring import Scorer, TokenScores, scorer
from octet.evaluate.comparing import EvaluationError, Progress, check_tokens
from octet.evaluate.divergence import Divergence, summarize
from octet.evaluate.windows import Window, sample, windows

WHOLE_VOCABULARY = 8192
"""Vocabularies up to this size are compared whole by default."""

TOP = 256
"""Most probable tokens that are compared of larger ones by default."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How texts are scored.

    Attributes:
        window: most tokens of a prompt.
        stride: tokens by which the window moves.
        sample: how many windows are scored, drawn by lot where there are more; 0 for all.
        seed: of that lot.
        top: how many of the most probable tokens are compared at each place, 0 for the whole vocabulary;
            None chooses.
        engine_flags: vLLM's flags for every model.
        quantized_flags: flags for the quantized ones besides.
    """

    window: int
    stride: int
    sample: int
    seed: int
    top: int | None
    engine_flags: tuple[str, ...] = ()
    quantized_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found out.

    Attributes:
        models: what each quantized model does differently.
        all_windows: how many the text has, of which a sample was scored.
    """

    models: list[Divergence]
    all_windows: int


async def evaluate(
    source: str, quantized: Sequence[str], documents: Sequence[str], settings: Settings, progress: Progress
) -> Evaluation:
    """Scores the documents with each model, the source first; no two run at the same time.

    Raises:
        EvaluationError: nothing to score, the window does not fit, or a model's tokens are not the source's.
        StartupError: a model cannot be run.
    """
    check_tokens(source, quantized, documents, settings.engine_flags)
    with tempfile.TemporaryDirectory(prefix="octet-eval-") as folder:
        reference = _Stored(Path(folder))
        progress(source, 0, 0)
        async with scorer(source, settings.engine_flags) as model:
            prompts, all_windows = _prompts(model, documents, settings)
            top, vocab_size = _top(settings.top, model.vocab_size), model.vocab_size
            await _score_all(model, prompts, top, reference, partial(progress, source))
        results = []
        for name in quantized:
            scores = _Stored(Path(folder))
            progress(name, 0, 0)
            async with scorer(name, (*settings.engine_flags, *settings.quantized_flags)) as model:
                if model.vocab_size != vocab_size:
                    raise EvaluationError(
                        f"{name} predicts {model.vocab_size} tokens, and {source} {vocab_size}"
                    )
                await _score_all(model, prompts, top, scores, partial(progress, name))
            pairs = zip(reference.read(len(prompts)), scores.read(len(prompts)), strict=True)
            results.append(summarize(pairs, vocab_size))
        return Evaluation(results, all_windows)


def _prompts(model: Scorer, documents: Sequence[str], settings: Settings) -> tuple[list[Window], int]:
    """The windows that are scored, and how many there are of which they are a sample."""
    # One token of the context belongs to the answer.
    length = min(settings.window, model.context_window - 1)
    opening = model.texts.opening
    if length <= len(opening) + 1:
        raise EvaluationError(f"a window of {length} tokens is too short")
    stride = min(settings.stride, length - len(opening) - 1)
    tokens = [model.texts.tokenize(document) for document in documents]
    if (count := sum(map(len, tokens))) + len(opening) < length:
        raise EvaluationError(
            f"the text has {count} tokens, fewer than a window of {length}: take a longer text, or a smaller "
            "--window"
        )

    def all_windows() -> Iterator[Window]:
        return (window for document in tokens for window in windows(document, opening, length, stride))

    total = sum(1 for _ in all_windows())
    return sample(all_windows(), total, settings.sample, settings.seed), total


async def _score_all(
    model: Scorer,
    prompts: Sequence[Window],
    top: int,
    stored: "_Stored",
    progress: Callable[[int, int], None],
) -> None:
    for number, window in enumerate(prompts):
        stored.write(number, await _score(model, window, top))
        progress(number + 1, len(prompts))


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
