"""How far a model's predictions are from another's: perplexities and Kullback-Leibler divergence."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octet.engine.vllm.serving.scoring import TokenScores

# Below this a probability that is a difference of rounded sums means nothing.
_LEAST_REST = 1e-7


@dataclass(frozen=True, slots=True)
class Divergence:
    """A quantized model's predictions of a text, against its source's.

    Standard errors are over windows, which are taken for independent, as tokens next to each other are not.
    They say how far a figure would be from itself on other texts of the kind. One window alone has none.

    Attributes:
        windows: how many prompts the tokens were in.
        tokens: how many were predicted.
        perplexity: exp of the mean negative log probability of the text's tokens.
        perplexity_error: its standard error; None of one window.
        source_perplexity: the source's.
        source_perplexity_error: its standard error.
        ratio: the one perplexity by the other.
        ratio_error: its standard error, of the difference in each window: both models read the same, and most
            of what makes perplexities vary cancels out.
        mean: mean over tokens of KL(source || quantized), in nats; of a lower bound where `exact` is false.
        standard_error: of that mean.
        percentile_99: the 99th percentile of the same.
        maximum: the largest.
        same_top: share of tokens at whose place both find the same token most probable.
        exact: whether the divergence is over the whole vocabulary.
    """

    windows: int
    tokens: int
    perplexity: float
    perplexity_error: float | None
    source_perplexity: float
    source_perplexity_error: float | None
    ratio: float
    ratio_error: float | None
    mean: float
    standard_error: float | None
    percentile_99: float
    maximum: float
    same_top: float
    exact: bool


def summarize(pairs: Iterable[tuple[TokenScores, TokenScores]], vocab_size: int) -> Divergence:
    """Compares scores of the same tokens: (source, quantized), window by window.

    Raises:
        ValueError: there are none.
    """
    losses, source_losses, divergences, same = [], [], [], []
    exact = True
    for source, quantized in pairs:
        exact = exact and source.top_ids.shape[1] == quantized.top_ids.shape[1] == vocab_size
        losses.append(-quantized.logprobs.astype(np.float64))
        source_losses.append(-source.logprobs.astype(np.float64))
        divergences.append(divergence(source, quantized, vocab_size))
        same.append(source.top_ids[:, 0] == quantized.top_ids[:, 0])
    if not divergences:
        raise ValueError("no tokens were scored")
    values = np.concatenate(divergences)
    perplexity, perplexity_error = _exponential(*_mean(losses))
    source_perplexity, source_perplexity_error = _exponential(*_mean(source_losses))
    ratio, ratio_error = _exponential(
        *_mean([loss - source for loss, source in zip(losses, source_losses, strict=True)])
    )
    mean, standard_error = _mean(divergences)
    return Divergence(
        windows=len(divergences),
        tokens=len(values),
        perplexity=perplexity,
        perplexity_error=perplexity_error,
        source_perplexity=source_perplexity,
        source_perplexity_error=source_perplexity_error,
        ratio=ratio,
        ratio_error=ratio_error,
        mean=mean,
        standard_error=standard_error,
        percentile_99=float(np.percentile(values, 99)),
        maximum=float(values.max()),
        same_top=float(np.concatenate(same).mean()),
        exact=exact,
    )


def divergence(source: TokenScores, quantized: TokenScores, vocab_size: int) -> npt.NDArray[np.float64]:
    """KL(source || quantized) at each place, in nats.

    Exact where both list the whole vocabulary. Where they list the most probable tokens only, those in both
    lists stay apart and all others count as one: merging outcomes never makes a divergence larger (the data
    processing inequality), so this is a lower bound.
    """
    rows = zip(
        source.top_ids,
        source.top_logprobs.astype(np.float64),
        quantized.top_ids,
        quantized.top_logprobs.astype(np.float64),
        strict=True,
    )
    return np.array([_row_divergence(*row, vocab_size) for row in rows])


def _row_divergence(
    source_ids: npt.NDArray[np.int32],
    source_logs: npt.NDArray[np.float64],
    ids: npt.NDArray[np.int32],
    logs: npt.NDArray[np.float64],
    vocab_size: int,
) -> float:
    _, ours, theirs = np.intersect1d(source_ids, ids, assume_unique=True, return_indices=True)
    source_logs, logs = source_logs[ours], logs[theirs]
    p = np.exp(source_logs)
    # A token that the source finds impossible adds nothing, whatever the other says.
    possible = p > 0
    total = float((p[possible] * (source_logs[possible] - logs[possible])).sum())
    rest = 1 - float(p.sum())
    if len(ours) < vocab_size and rest > _LEAST_REST:
        total += rest * math.log(rest / max(1 - float(np.exp(logs).sum()), _LEAST_REST))
    # Rounding alone makes equal distributions differ, in either direction.
    return max(total, 0.0)


def _mean(windows: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float | None]:
    """The mean over all tokens, and its standard error over the windows, which need not be of one length."""
    sums, counts = np.array([window.sum() for window in windows]), np.array([len(each) for each in windows])
    mean = float(sums.sum() / counts.sum())
    if len(windows) < 2:
        return mean, None
    # A ratio of two sums over windows: its error is that of the windows' deviations from it.
    deviations = sums - mean * counts
    variance = len(windows) / (len(windows) - 1) * float((deviations**2).sum())
    return mean, math.sqrt(variance) / float(counts.sum())


def _exponential(mean: float, error: float | None) -> tuple[float, float | None]:
    value = math.exp(mean)
    return value, None if error is None else value * error
