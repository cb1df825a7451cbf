"""Requests that run and wait for memory: those whose pictures were elsewhere when their turn came."""

import asyncio
from collections.abc import Iterator

from octet.rpc.admission.fair_queue import FairQueue
from octet.rpc.admission.image_memory import ImageMemory
from octet.rpc.admission.ticket import Ticket


class Claim:
    """What a running request waits for."""

    def __init__(self, ticket: Ticket, size: int) -> None:
        self.ticket = ticket
        self.caller = ticket.caller
        self.priority = ticket.priority
        self.size = size
        self.given = asyncio.get_running_loop().create_future()


class Claims:
    """All claims; the callers take turns.

    Args:
        memory: what they wait for.
    """

    def __init__(self, memory: ImageMemory) -> None:
        self._memory = memory
        self._queue: FairQueue[Claim] = FairQueue()

    @property
    def lacking(self) -> bool:
        """Whether one waits for what the server has not enough of."""
        return any(not self._memory.fits_server(claim.size) for claim in self._in_turn())

    def push(self, ticket: Ticket, size: int) -> Claim:
        """Has a request wait; `serve` sets its claim's future."""
        claim = Claim(ticket, size)
        self._queue.push(claim)
        return claim

    def drop(self, claim: Claim) -> None:
        """It waits no more."""
        self._queue.remove(claim)

    def serve(self) -> None:
        """Gives memory to those whose turn it is, for as long as there is some."""
        while (claim := self._next()) is not None:
            self._queue.serve(claim)
            self._memory.give(claim.ticket, claim.size)
            claim.given.set_result(None)

    def _next(self) -> Claim | None:
        for claim in self._in_turn():
            if self._memory.fits(claim.caller, claim.size):
                return claim
            if not self._memory.fits_server(claim.size):
                return None
        return None

    def _in_turn(self) -> Iterator[Claim]:
        return self._queue.in_turn(self._memory.callers)
