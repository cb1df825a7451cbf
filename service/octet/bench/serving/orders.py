"""What is to be asked: how many requests of which kind and length, and when."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from octet.bench.serving.lengths import Length


class Kind(StrEnum):
    """What a request is about."""

    TEXT = "text"
    PICTURE = "picture"
    TOOLS = "tools"


@dataclass(frozen=True, slots=True)
class Order:
    """A request that is to be made.

    Attributes:
        number: counts from 0.
        kind: what it is about.
        prompt_tokens: length of its text; pictures and tools come on top of it.
        answer_tokens: length of the answer, at most where the model may end it.
        due: seconds after the beginning when it is to be sent; None: when a stream is free.
    """

    number: int
    kind: Kind
    prompt_tokens: int
    answer_tokens: int
    due: float | None = None


def parse_mix(text: str) -> dict[Kind, float]:
    """Reads shares such as `text=0.8,picture=0.1,tools=0.1`; they are scaled to add up to 1.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    shares: dict[Kind, float] = {}
    for part in text.split(","):
        name, equals, share = part.strip().partition("=")
        if not equals or name not in list(Kind):
            raise ValueError(f"{part!r} is no share; give KIND=SHARE, KIND one of {', '.join(Kind)}")
        if name in shares:
            raise ValueError(f"{name} has two shares")
        try:
            number = float(share)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise ValueError(f"the share of {name} is {share!r}, not a number from 0 on")
        shares[Kind(name)] = number
    total = sum(shares.values())
    if not total:
        raise ValueError("all shares are 0")
    return {kind: share / total for kind, share in shares.items() if share}


def draw_orders(
    count: int,
    mix: Mapping[Kind, float],
    prompt: Length,
    answer: Length,
    chance: random.Random,
    dues: Sequence[float] | None = None,
) -> list[Order]:
    """As many requests, their kinds and lengths by lot.

    Args:
        count: how many.
        mix: the kinds, with their shares.
        prompt: lengths of prompts.
        answer: lengths of answers.
        chance: what decides.
        dues: when each is to be sent; None: when a stream is free.
    """
    kinds = chance.choices(list(mix), list(mix.values()), k=count)
    return [
        Order(
            number,
            kind,
            prompt.draw(chance),
            answer.draw(chance),
            None if dues is None else dues[number],
        )
        for number, kind in enumerate(kinds)
    ]
