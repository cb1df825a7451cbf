"""Divergence and perplexity against figures computed another way."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from octet.engine.vllm.serving.scoring import TokenScores
from octet.evaluate.divergence import divergence, summarize

ROWS, VOCABULARY = 20, 30


def logits(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, VOCABULARY, generator=generator, dtype=torch.float64) * 3


def scores(logs: torch.Tensor, top: int) -> TokenScores:
    """What a model with these log probabilities [T, V] returns for the tokens 0, 1, 2, ..."""
    values, ids = logs.topk(top, dim=1)
    tokens = torch.arange(len(logs))
    own = logs[tokens, tokens]
    return TokenScores(tokens.int().numpy(), own.float().numpy(), ids.int().numpy(), values.float().numpy())


def pair(noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    source = logits(0)
    return source.log_softmax(1), (source + noise * logits(1)).log_softmax(1)


def exact(p: torch.Tensor, q: torch.Tensor) -> Any:
    """torch's own."""
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(1).numpy()


def test_over_the_whole_vocabulary_it_is_exact() -> None:
    p, q = pair()
    found = divergence(scores(p, VOCABULARY), scores(q, VOCABULARY), VOCABULARY)
    np.testing.assert_allclose(found, exact(p, q), rtol=1e-4, atol=1e-6)


def test_a_model_does_not_diverge_from_itself() -> None:
    p, _ = pair()
    for top in (1, 5, VOCABULARY):
        assert divergence(scores(p, top), scores(p, top), VOCABULARY).max() < 1e-6


@pytest.mark.parametrize("top", [1, 3, 10, 29])
def test_over_the_most_probable_tokens_it_is_a_lower_bound(top: int) -> None:
    p, q = pair()
    found = divergence(scores(p, top), scores(q, top), VOCABULARY)
    assert (found <= exact(p, q) + 1e-6).all()
    assert (found >= 0).all()


def test_more_tokens_bring_the_bound_nearer() -> None:
    p, q = pair()
    means = [divergence(scores(p, k), scores(q, k), VOCABULARY).mean() for k in (1, 5, 15, VOCABULARY)]
    assert means[0] < means[2] < means[3]
    assert means[3] == pytest.approx(exact(p, q).mean(), rel=1e-4)


def test_an_impossible_token_adds_nothing() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    q = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()
    (found,) = divergence(scores(p, 3), scores(q, 3), 3)
    assert found == pytest.approx(0.5 * math.log(2), rel=1e-5)


def test_the_summary() -> None:
    p, q = pair()
    halves = [(scores(p[:7], VOCABULARY), scores(q[:7], VOCABULARY))]
    shifted = torch.arange(7, ROWS)
    rest_p, rest_q = (scores(x, VOCABULARY) for x in (p[7:], q[7:]))
    summary = summarize([*halves, (rest_p, rest_q)], VOCABULARY)
    own = lambda x: torch.cat([x[:7].diagonal(), x[7:].diagonal()])  # noqa: E731
    assert summary.tokens == ROWS == 7 + len(shifted)
    assert summary.perplexity == pytest.approx(math.exp(-own(q).mean()), rel=1e-5)
    assert summary.source_perplexity == pytest.approx(math.exp(-own(p).mean()), rel=1e-5)
    assert summary.mean == pytest.approx(exact(p, q).mean(), rel=1e-4)
    assert summary.maximum == pytest.approx(exact(p, q).max(), rel=1e-4)
    assert summary.windows == 2
    assert summary.ratio == pytest.approx(summary.perplexity / summary.source_perplexity)
    assert summary.same_top == pytest.approx((p.argmax(1) == q.argmax(1)).double().mean())
    assert summary.exact
    assert not summarize([(scores(p, 5), scores(q, 5))], VOCABULARY).exact


def drawn(generator: np.random.Generator, size: int, level: float) -> tuple[TokenScores, TokenScores]:
    """A window whose losses are near `level`, the quantized model's a little above the source's."""
    source = level + generator.normal(0, 0.3, size)
    made = []
    for losses in (source, source + generator.normal(0.02, 0.01, size)):
        one = np.zeros((size, 1))
        made.append(
            TokenScores(one[:, 0].astype(np.int32), -losses.astype(np.float32), one.astype(np.int32), one)
        )
    return made[0], made[1]


def test_standard_errors_are_what_figures_vary_by_from_sample_to_sample() -> None:
    """Windows of a text differ from each other more than their tokens do."""
    generator = np.random.default_rng(0)
    summaries = [
        summarize(
            [drawn(generator, int(size), generator.normal(3, 0.5)) for size in generator.integers(1, 8, 20)],
            VOCABULARY,
        )
        for _ in range(200)
    ]
    for figure, error in (
        ("perplexity", "perplexity_error"),
        ("source_perplexity", "source_perplexity_error"),
        ("ratio", "ratio_error"),
    ):
        spread = np.std([getattr(summary, figure) for summary in summaries], ddof=1)
        assert np.mean([getattr(summary, error) for summary in summaries]) == pytest.approx(spread, rel=0.2)
    # What both models read they find equally hard: their ratio is known far better than either.
    assert all(s.ratio_error < 0.1 * s.perplexity_error / s.perplexity for s in summaries)  # type: ignore[operator]


def test_one_window_has_no_standard_error() -> None:
    p, q = pair()
    summary = summarize([(scores(p, 5), scores(q, 5))], VOCABULARY)
    assert (summary.standard_error, summary.perplexity_error, summary.ratio_error) == (None, None, None)


def test_nothing_to_summarize() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        summarize([], VOCABULARY)
