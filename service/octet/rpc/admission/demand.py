"""How much work is asked of a server, over how much it does at once: what an autoscaler follows."""

import heapq
import math
import threading
from collections.abc import Callable

from octet.errors import OverloadedError
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.ticket import Ticket

MEAN_SECONDS = 30.0
"""Time constant of the mean: what was so long ago counts a third (1/e) of what is now."""


class Demand:
    """Follows the sequences that run, that wait, and that were refused and are still wanted.

    A refused request is wanted until it was told to come again, as if it waited outside; then it is here
    once more, admitted or refused, at this server or at another one, so that it counts once however often
    it is tried. If it comes sooner, its id and caller tell, and it counts no more as refused. One that was
    told not to come again is wanted for as long as requests run of late, which is what it would have taken.
    None is wanted after its deadline. A caller's own limit says nothing about the server: beyond it nothing
    is wanted.

    Safe to use from all threads.

    Args:
        clock: seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._capacity = 0
        self._here = 0
        # By request, which of the entries below is its, and its sequences.
        self._refused: dict[tuple[str, str | int], tuple[int, int]] = {}
        # Until when it is wanted, number of the entry, request. Entries of requests that came again stay.
        self._until: list[tuple[float, int, tuple[str, str | int]]] = []
        self._entries = 0
        self._away = 0
        self._mean = 0.0
        self._seen = clock()

    def open(self, limits: Limits) -> None:
        """Sets what the server does at once."""
        self._capacity = limits.running if limits.computed is None else limits.computed

    def ratio(self) -> float:
        """Sequences in demand by those that the engine computes at once; 0 before `open`.

        It is the mean over the past, weighted exponentially (`MEAN_SECONDS`), exact whenever it is asked for.
        """
        with self._lock:
            self._advance()
            return self._mean / self._capacity if self._capacity else 0.0

    def enter(self, ticket: Ticket) -> None:
        """The request waits from now on, or runs."""
        with self._lock:
            self._advance()
            self._here += ticket.cost.sequences

    def leave(self, ticket: Ticket) -> None:
        """The request neither waits nor runs any more."""
        with self._lock:
            self._advance()
            self._here -= ticket.cost.sequences

    def come(self, ticket: Ticket) -> None:
        """The request is here, for the first time or again."""
        if ticket.request_id:
            with self._lock:
                self._advance()
                self._forget((ticket.caller, ticket.request_id))

    def refuse(self, ticket: Ticket, error: OverloadedError, run_seconds: float | None) -> None:
        """The request is refused.

        Args:
            ticket: its place, which it does not get or has left.
            error: what it is told.
            run_seconds: how long requests run of late; None without evidence.
        """
        if error.quota is not None:
            return
        with self._lock:
            self._advance()
            told = error.retry_seconds
            until = self._seen + (told if error.retryable or run_seconds is None else run_seconds)
            if ticket.deadline is not None:
                until = min(until, ticket.deadline)
            self._entries += 1
            request = (ticket.caller, ticket.request_id or self._entries)
            self._forget(request)
            self._refused[request] = (self._entries, ticket.cost.sequences)
            self._away += ticket.cost.sequences
            heapq.heappush(self._until, (until, self._entries, request))

    def _forget(self, request: tuple[str, str | int]) -> None:
        """The request counts as refused no more."""
        _, sequences = self._refused.pop(request, (0, 0))
        self._away -= sequences

    def _advance(self) -> None:
        """Brings the mean, and what is still wanted, to the present."""
        now = self._clock()
        while self._until and self._until[0][0] <= now:
            until, entry, request = heapq.heappop(self._until)
            if self._refused.get(request, (0, 0))[0] == entry:
                self._pass(until)
                self._forget(request)
        self._pass(now)

    def _pass(self, now: float) -> None:
        """Takes into the mean the time until `now`, in which nothing has changed."""
        if now > self._seen:
            self._mean += (self._here + self._away - self._mean) * -math.expm1(
                (self._seen - now) / MEAN_SECONDS
            )
            self._seen = now
