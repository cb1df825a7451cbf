"""How long prompts and answers are: one length, or a distribution that lengths are drawn from."""

import math
import random
from dataclasses import dataclass
from typing import Protocol


class Length(Protocol):
    """Something that lengths in tokens, 1 and more, are drawn from."""

    def draw(self, chance: random.Random) -> int:
        """The next length."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    tokens: int

    def draw(self, chance: random.Random) -> int:
        """The same."""
        return self.tokens


@dataclass(frozen=True, slots=True)
class Uniform:
    """Each length from `least` to `most` is as likely as the others."""

    least: int
    most: int

    def draw(self, chance: random.Random) -> int:
        """The next length."""
        return chance.randint(self.least, self.most)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Most are around `median`, few are long: the logarithm is normal. What is longer than `most` is `most`.

    Attributes:
        median: half of the lengths are below.
        sigma: standard deviation of the natural logarithm; with 1, one in six is above 2.7 times the median.
        most: the longest.
    """

    median: int
    sigma: float
    most: int

    def draw(self, chance: random.Random) -> int:
        """The next length."""
        drawn = chance.lognormvariate(math.log(self.median), self.sigma)
        return max(1, min(self.most, round(drawn)))


FORMS = "128, uniform:64,512 or lognormal:MEDIAN,SIGMA,MOST"


def parse(text: str) -> Length:
    """Reads one of `FORMS`.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    name, colon, rest = text.partition(":")
    try:
        match name if colon else "":
            case "":
                return Fixed(_tokens(text))
            case "uniform":
                least, most = map(_tokens, rest.split(","))
                if least > most:
                    raise ValueError(f"{text!r}: {least} is more than {most}")
                return Uniform(least, most)
            case "lognormal":
                median, sigma, cap = rest.split(",")
                return Lognormal(_tokens(median), _sigma(sigma), _tokens(cap))
    except _WrongNumberError as error:
        raise ValueError(f"{text!r}: {error}") from None
    except ValueError as error:
        if str(error).startswith(repr(text)):
            raise
    raise ValueError(f"{text!r} is no length in tokens; give {FORMS}")


class _WrongNumberError(ValueError):
    """A number that makes no sense where it stands."""


def _tokens(text: str) -> int:
    number = int(text)
    if number < 1:
        raise _WrongNumberError(f"{number} is less than 1 token")
    return number


def _sigma(text: str) -> float:
    sigma = float(text)
    if not 0 <= sigma <= 5:
        raise _WrongNumberError(f"{text} is not between 0 and 5")
    return sigma
