"""Where the time of an answer goes, and how that is fitted to measured points."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Costs(Protocol):
    """Seconds of an engine that does one step after the other."""

    @property
    def picture_tokens(self) -> int:
        """What a picture adds to the tokens that a step attends to."""
        ...

    def asked(self, prompt: float, pictures: float = 0) -> float:
        """What a request takes of the engine beside the steps that give its tokens."""
        ...

    def step(self, sequences: float, context: float) -> float:
        """A step that gives each of so many sequences, of so many tokens on average, a token."""
        ...


def answers_per_s(costs: Costs, sequences: float, prompt: float, answer: float, pictures: float = 0) -> float:
    """Answers a second while so many sequences run all the time.

    Each takes `asked` for itself, and its share of as many steps as it has tokens.
    """
    context = prompt + pictures * costs.picture_tokens + answer / 2
    return 1 / (costs.asked(prompt, pictures) + answer / sequences * costs.step(sequences, context))


def token_s(costs: Costs, sequences: float, prompt: float, answer: float, pictures: float = 0) -> float:
    """Seconds between two tokens of an answer meanwhile, with what others' prompts take of the engine."""
    return sequences / answers_per_s(costs, sequences, prompt, answer, pictures) / answer


@dataclass(frozen=True, slots=True)
class Law:
    """Costs as polynomials, in seconds.

    Attributes:
        request: of a request, whatever it holds.
        token: of each token of its prompt.
        pair: of each token of its prompt, for each token of its prompt.
        picture: of each picture.
        fixed: of a step, however many sequences it computes.
        sequence: of each sequence in a step.
        cached: of each sequence in a step, for each of its tokens so far.
        picture_tokens: of each picture.
    """

    request: float
    token: float
    pair: float
    picture: float
    fixed: float
    sequence: float
    cached: float
    picture_tokens: int = 0

    def asked(self, prompt: float, pictures: float = 0) -> float:
        """What a request takes beside the steps that give its tokens."""
        return self.request + self.token * prompt + self.pair * prompt**2 + self.picture * pictures

    def step(self, sequences: float, context: float) -> float:
        """A step that gives each of so many sequences a token."""
        return self.fixed + (self.sequence + self.cached * context) * sequences

    def first_text(self, prompt: float, pictures: float = 0) -> float:
        """Until there is something to show of a request that is alone."""
        return self.asked(prompt, pictures) + self.fixed


@dataclass(frozen=True, slots=True)
class Check:
    """A formula beside the points that it was fitted to.

    Attributes:
        what: the formula says.
        points: x, measured, computed.
    """

    what: str
    points: list[tuple[float, float, float]]

    @property
    def errors(self) -> list[float]:
        """How far off each point is, as a share of what was measured."""
        return [abs(computed - measured) / measured for _, measured, computed in self.points]

    def in_words(self) -> str:
        """Median and largest of the errors."""
        return f"{statistics.median(self.errors):.0%} off in the median, {max(self.errors):.0%} at most"


def fit(curves: dict[str, Any], prompt: int, answer: int) -> tuple[Law, list[Check]]:
    """The law of a server whose curves were measured.

    Args:
        curves: what `bench.curves` wrote, by name: streams, prompt, and pictures where the model takes any.
        prompt: tokens of each prompt where streams and pictures varied, as they were counted.
        answer: tokens of each answer where streams varied.
    """
    lengths, first = _points(curves["prompt"], _first_text)
    pair, token, begin = _polynomial(lengths, first, 2)
    if pair < 0:
        # What scatters has no square of its own.
        pair, (token, begin) = 0.0, _polynomial(lengths, first, 1)
    steps = _points(curves["prompt"], _per_token)[1]
    cached = max(0.0, _polynomial(lengths, steps, 1)[0])
    streams, rates = _points(curves["streams"], _answers)
    # 1 / rate is a line over 1 / streams.
    shared, alone = _polynomial([1 / count for count in streams], [1 / rate for rate in rates], 1)
    fixed = shared / answer
    request = max(0.0, begin - fixed)
    context = prompt + answer / 2
    asked = request + token * prompt + pair * prompt**2
    sequence = (alone - asked) / answer - cached * context
    picture = 0.0
    if "pictures" in curves:
        counts, with_pictures = _points(curves["pictures"], _first_text)
        picture, _ = _polynomial(counts, with_pictures, 1)
    law = Law(request, token, pair, picture, fixed, sequence, cached)
    checks = [
        _check(
            "answers a second, by streams", streams, rates, lambda x: answers_per_s(law, x, prompt, answer)
        ),
        _check("first text, by prompt", lengths, first, law.first_text),
    ]
    if "pictures" in curves:
        checks.append(
            _check("first text, by pictures", counts, with_pictures, lambda x: law.first_text(prompt, x))
        )
    return law, checks


def _points(
    curve: dict[str, Any], figure: Callable[[dict[str, Any]], float]
) -> tuple[list[float], list[float]]:
    """The values of a curve, and the median of the turns for each."""
    points = curve["points"]
    return (
        [_x(curve, point) for point in points],
        [statistics.median(map(figure, point["turns"])) for point in points],
    )


def _x(curve: dict[str, Any], point: dict[str, Any]) -> float:
    """Prompts are as long as they were counted; everything else is as it was asked for."""
    if curve["name"] != "prompt":
        return float(point["x"])
    counted = [turn["prompt_tokens"] / turn["statuses"]["OK"] for turn in point["turns"]]
    return float(statistics.median(counted))


def _first_text(turn: dict[str, Any]) -> float:
    return float(turn["first_text_s"]["p50"])


def _per_token(turn: dict[str, Any]) -> float:
    return float(turn["per_token_s"]["p50"])


def _answers(turn: dict[str, Any]) -> float:
    return float(turn["answers_per_s"])


def _polynomial(xs: Sequence[float], ys: Sequence[float], degree: int) -> list[float]:
    """Coefficients, the highest power's first, with the least squares of errors as shares of the values."""
    weights = [1 / y for y in ys]
    return [float(each) for each in np.polyfit(xs, ys, degree, w=weights)]


def _check(
    what: str, xs: Sequence[float], measured: Sequence[float], formula: Callable[[float], float]
) -> Check:
    return Check(what, [(x, y, formula(x)) for x, y in zip(xs, measured, strict=True)])
