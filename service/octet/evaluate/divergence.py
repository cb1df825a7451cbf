"""How far a model's predictions are from another's: perplexities and Kullback-Leibler divergence."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from octet.engine.vllm.serving.scoring import TokenScores

# Below this a probability that is a difference of rounded sums means nothing.
_LEAST_REST = 1e-7


@dataclass(frozen=True, slots=True)
class Divergence:
    """A quantized model's predictions of a text, against its source's.

    Attributes:
        tokens: how many were predicted.
        perplexity: exp of the mean negative log probability of the text's tokens.
        source_perplexity: the source's.
        mean: mean over tokens of KL(source || quantized), in nats; of a lower bound where `exact` is false.
        standard_error: of that mean, the tokens taken for independent.
        percentile_99: the 99th percentile of the same.
        maximum: the largest.
        same_top: share of tokens at whose place both find the same token most probable.
        exact: whether the divergence is over the whole vocabulary.
    """

    tokens: int
    perplexity: float
    source_perplexity: float
    mean: float
    standard_error: float
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
        losses.append(-quantized.logprobs)
        source_losses.append(-source.logprobs)
        divergences.append(divergence(source, quantized, vocab_size))
        same.append(source.top_ids[:, 0] == quantized.top_ids[:, 0])
    if not divergences:
        raise ValueError("no tokens were scored")
    values = np.concatenate(divergences)
    count = len(values)
    return Divergence(
        tokens=count,
        perplexity=_perplexity(losses),
        source_perplexity=_perplexity(source_losses),
        mean=float(values.mean()),
        standard_error=float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
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


def _perplexity(losses: list[npt.NDArray[np.float32]]) -> float:
    return float(np.exp(np.concatenate(losses).astype(np.float64).mean()))
