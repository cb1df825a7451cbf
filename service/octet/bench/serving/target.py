"""What can be asked: the one interface of servers and engines that are measured by the same clock."""

import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol

from octet.bench.serving import content
from octet.bench.serving.content import Scale
from octet.bench.serving.orders import Kind, Order


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens have come.

    Attributes:
        shown: whether there is something to show to a reader: text, reasoning, part of a tool call.
    """

    shown: bool


SHOWN, HIDDEN = Piece(True), Piece(False)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server has counted; comes once, at the end.

    Attributes:
        prompt_tokens: of the prompt, with all that it holds.
        answer_tokens: of the answer.
    """

    prompt_tokens: int
    answer_tokens: int


class Failure(Exception):
    """A request was not answered, or not to the end.

    Attributes:
        status: what failures are counted by: a gRPC status's name, `HTTP 500`, or what `target` says.
        message: one sentence.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


UNREACHABLE = "UNAVAILABLE"
LATE = "DEADLINE_EXCEEDED"
CUT_OFF = "CUT_OFF"
"""A stream ended before the answer had."""
UNCOUNTED = "NO_USAGE"
"""The server did not say how many tokens there were."""


@dataclass(frozen=True, slots=True)
class Form:
    """What all requests of a run have in common.

    Attributes:
        scale: words and tokens; for servers that take text.
        temperature: 0 is greedy.
        may_end: whether the model may end answers; otherwise they have exactly the length that is asked for.
        pictures: in each request with pictures.
        picture_side: their pixels on each side.
        salt: what makes the words of this run different from those of another one with the same seed.
    """

    scale: Scale = field(default_factory=lambda: Scale(0.0, 1.0))
    temperature: float = 0.0
    may_end: bool = False
    pictures: int = 1
    picture_side: int = 896
    salt: str = ""

    def chance(self, order: Order) -> random.Random:
        """What decides on an order's words and pictures."""
        return random.Random(f"{self.salt}/{order.number}")

    def text_and_pictures(self, order: Order) -> tuple[str, list[bytes]]:
        """What an order says, and the files of its pictures."""
        chance = self.chance(order)
        said = content.text(self.scale.words(order.prompt_tokens), chance)
        number = self.pictures if order.kind is Kind.PICTURE else 0
        return said, [content.picture(self.picture_side, chance) for _ in range(number)]


class Target(Protocol):
    """Something that answers. Requests are prepared before the clock runs."""

    @property
    def title(self) -> str:
        """What reports call it."""
        ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """What it can be asked."""
        ...

    @property
    def takes_tokens(self) -> bool:
        """Whether prompts are token ids, of exactly the length that is asked for."""
        ...

    async def open(self) -> None:
        """Finds out what has to be known before requests can be prepared.

        Raises:
            Failure: it does not answer.
        """
        ...

    def prepare(self, order: Order, form: Form) -> Any:
        """The request for an order, as `stream` takes it."""
        ...

    def stream(self, request: Any) -> AsyncGenerator[Piece | Usage, None]:
        """Sends a request, and gives what comes, at once: pieces, and at the end what was counted.

        Raises:
            Failure: it was not answered to the end.
        """
        ...

    async def close(self) -> None:
        """Ends every connection."""
        ...
