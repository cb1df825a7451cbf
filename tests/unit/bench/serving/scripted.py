"""A target without a server: answers come at once, or when they are released."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.target import SHOWN, Failure, Form, Piece, Usage


class Scripted:
    """Answers with as many pieces as tokens are asked for. A word is a token, and a prompt has three more.

    Attributes:
        asked: the texts of all requests, in order.
        running: how many are being answered, and the most at once.
        fails: numbers of orders that fail after their first piece, with the status.
        gate: what every answer waits for before its first piece.
    """

    title = "scripted"
    kinds = frozenset(Kind)
    takes_tokens = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.running = self.most = 0
        self.fails: dict[int, str] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.unreachable = False

    async def open(self) -> None:
        if self.unreachable:
            raise Failure("UNAVAILABLE", "nobody is there")

    def prepare(self, order: Order, form: Form) -> tuple[Order, str]:
        return order, form.text_and_pictures(order)[0]

    async def stream(self, request: Any) -> AsyncGenerator[Piece | Usage, None]:
        order, text = request
        self.asked.append(text)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            for number in range(order.answer_tokens):
                await asyncio.sleep(0)
                yield SHOWN
                if number == 0 and order.number in self.fails and order.answer_tokens > 1:
                    raise Failure(self.fails[order.number], f"number {order.number}")
            yield Usage(len(text.split()) + 3, order.answer_tokens)
        finally:
            self.running -= 1

    async def close(self) -> None:
        pass


class Silent:
    """Nobody watches; what began is kept."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.noted = 0

    def begin(self, what: str, requests: int) -> None:
        self.begun.append((what, requests))

    def note(self, outcome: object) -> None:
        self.noted += 1
