"""Admission: refuses what there is no room for, makes the rest wait its turn, and gives the engine enough.

Requests wait here and not in the engine, which is given little more than it computes at once: here their
order is fair between callers, whoever gives up leaves at once and costs nothing, how long somebody waited is
known, and what waits is neither decoded nor rendered. Requests with pictures wait for the memory that these
will take as well; whatever needs none passes them meanwhile.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from octet.errors import OverloadedError, Quota
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.fair_queue import FairQueue
from octet.rpc.admission.image_memory import ImageMemory
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.listener import AdmissionListener, Load
from octet.rpc.admission.pace import Pace

MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 30.0

_DEFAULT_RETRY_SECONDS = 1.0
_JITTER = 0.25
_NOTHING = Limits(running=0, waiting=0, waiting_tokens=0, waiting_images=0, token_calls=0)


class Ticket:
    """A request's place: in the queue at first, then among those that run."""

    def __init__(self, caller: str, cost: Cost, entered: float, deadline: float | None, pace: Pace) -> None:
        self.caller = caller
        self.cost = cost
        self.entered = entered
        self.deadline = deadline
        self.images = cost.images
        self.image_bytes = 0
        self.started: float | None = None
        self.refusal: OverloadedError | None = None
        self._decided = asyncio.Event()
        self._pace = pace
        self._waits_for_token = True

    @property
    def priority(self) -> int:
        """Smaller goes first."""
        return self.cost.priority

    async def turn(self) -> None:
        """Returns when it is the request's turn.

        Raises:
            OverloadedError: when it had to make room, or its turn has come too late.
        """
        await self._decided.wait()
        if self.refusal is not None:
            raise self.refusal

    def start(self, now: float) -> None:
        """It is its turn."""
        self.started = now
        self._decided.set()

    def refuse(self, error: OverloadedError) -> None:
        """It will not get its turn."""
        self.refusal = error
        self._decided.set()

    def note_first_token(self, now: float) -> None:
        """The answer has begun; all but the first time nothing happens."""
        if self._waits_for_token and self.started is not None:
            self._waits_for_token = False
            self._pace.note_first_token(now - self.started)


class _Claim:
    """A running request that waits for memory."""

    def __init__(self, ticket: Ticket, size: int) -> None:
        self.ticket = ticket
        self.caller = ticket.caller
        self.priority = ticket.priority
        self.size = size
        self.given = asyncio.get_running_loop().create_future()


class Admission:
    """Decides, before any work is done on them, on the requests of a server.

    Args:
        limits: what there is room for; nothing until `open` says what.
        clock: seconds that never jump.
    """

    def __init__(
        self,
        limits: Limits = _NOTHING,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._pace = Pace(clock)
        self._queue: FairQueue[Ticket] = FairQueue()
        self._claims: FairQueue[_Claim] = FairQueue()
        self._image_memory = ImageMemory(limits.image_memory)
        self._waiting_tokens = 0
        self._waiting_images = 0
        self._waiting_image_bytes = 0
        self._running = 0
        self._running_sequences: Counter[str] = Counter()
        self._token_calls = 0
        self._in_flight: Counter[str] = Counter()
        self._listeners: list[AdmissionListener] = []

    def open(self, limits: Limits) -> None:
        """Sets what there is room for."""
        self._limits = limits
        self._image_memory = ImageMemory(limits.image_memory)

    def subscribe(self, listener: AdmissionListener) -> None:
        """Tells `listener` what happens from now on."""
        self._listeners.append(listener)

    def load(self) -> Load:
        """What there is now."""
        return Load(
            running=self._running,
            running_sequences=self._running_sequences.total(),
            waiting=len(self._queue),
            waiting_tokens=self._waiting_tokens,
            waiting_images=self._waiting_images,
            token_calls=self._token_calls,
            image_bytes=self._image_memory.used,
            waiting_image_bytes=self._waiting_image_bytes,
        )

    @contextmanager
    def enter(
        self, caller: str, cost: Cost, *, time_left: float | None = None, caller_limit: int | None = None
    ) -> Iterator[Ticket]:
        """Gives a request its place for as long as the context lasts; await its `turn`.

        Args:
            caller: the name of the key that it came with.
            cost: what it takes.
            time_left: seconds until its deadline; None for no deadline.
            caller_limit: requests that the caller may have here at the same time; None for any number.

        Raises:
            OverloadedError: when there is no room for it, or its deadline cannot be met.
        """
        with self._telling_refusals(caller):
            self._check_caller(caller, caller_limit)
        self._in_flight[caller] += 1
        try:
            with self._place(caller, cost, time_left) as ticket:
                yield ticket
        finally:
            self._in_flight[caller] -= 1

    @contextmanager
    def enter_token_call(
        self, caller: str, images: int = 0, image_bytes: int = 0, *, time_left: float | None = None
    ) -> Iterator[Ticket]:
        """Counts a call that asks about tokens while the context lasts; await its `turn`.

        It waits for nothing but the memory that its pictures take.

        Args:
            caller: the name of the key that it came with.
            images: its pictures.
            image_bytes: what decoding them takes.
            time_left: seconds until its deadline; None for no deadline.

        Raises:
            OverloadedError: when there is no room for it.
        """
        with self._telling_refusals(caller):
            if self._token_calls >= self._limits.token_calls:
                raise self._overloaded(
                    "TOO_MANY_TOKEN_CALLS",
                    f"{self._token_calls} calls about tokens are being answered, as many as may be at "
                    "the same time; try again",
                )
        self._token_calls += 1
        try:
            cost = Cost(sequences=0, images=images, image_bytes=image_bytes)
            with self._place(caller, cost, time_left) as ticket:
                yield ticket
        finally:
            self._token_calls -= 1

    @contextmanager
    def _place(self, caller: str, cost: Cost, time_left: float | None) -> Iterator[Ticket]:
        """A place in the queue, and then among those that run."""
        now = self._clock()
        deadline = None if time_left is None else now + time_left
        ticket = Ticket(caller, cost, now, deadline, self._pace)
        with self._telling_refusals(caller):
            self._check_images(cost.images)
            if cost.sequences:
                self._check_deadline(ticket)
            displaced = self._make_room(ticket)
        if displaced is not None:
            self._refuse(
                displaced,
                self._overloaded(
                    "TOO_MANY_WAITING_REQUESTS",
                    "it had to make room for one with precedence, or of a caller with fewer; try again",
                ),
            )
        self._queue.push(ticket)
        self._waiting_tokens += cost.tokens
        self._waiting_images += cost.images
        self._waiting_image_bytes += cost.image_bytes
        self._start_next()
        try:
            yield ticket
        finally:
            self.images_decoded(ticket)
            self.hold_image_memory(ticket, 0)
            if ticket.started is not None:
                self._leave(ticket, ticket.started)
            elif ticket.refusal is None:
                self._drop(ticket)
            self._start_next()

    def images_decoded(self, ticket: Ticket) -> None:
        """The request's pictures wait no more. Idempotent."""
        self._waiting_images -= ticket.images
        ticket.images = 0

    async def take_image_memory(self, ticket: Ticket, size: int) -> None:
        """Returns when a running request has so many bytes for its pictures, which were elsewhere until now.

        It gives back what it has, so that no two wait for each other's. Before it go those who are waiting so
        already, as the callers take turns; after it, those whose turn has not come.
        """
        self.hold_image_memory(ticket, 0)
        claim = _Claim(ticket, size)
        self._claims.push(claim)
        self._start_next()
        try:
            await claim.given
        except asyncio.CancelledError:
            if claim.given.cancelled():
                self._claims.remove(claim)
                self._start_next()
            raise

    def hold_image_memory(self, ticket: Ticket, size: int) -> None:
        """The request needs no more than so many bytes for its pictures from now on; others get the rest."""
        if size < ticket.image_bytes:
            self._image_memory.take(ticket.caller, size - ticket.image_bytes)
            ticket.image_bytes = size
            self._start_next()

    def first_token(self, ticket: Ticket) -> None:
        """The request's answer has begun. Idempotent."""
        ticket.note_first_token(self._clock())

    def _check_caller(self, caller: str, limit: int | None) -> None:
        if limit is not None and self._in_flight[caller] >= limit:
            raise OverloadedError(
                "KEY_LIMIT_REACHED",
                f"the key {caller} has {limit} requests at the same time, as many as it may; "
                "wait until one is answered",
                retry_seconds=self._retry_seconds(self._pace.run_seconds()),
                quota=Quota(f"key:{caller}", f"{limit} requests at the same time"),
            )

    def _check_images(self, images: int) -> None:
        """Whatever the limit is, the pictures of one request can wait, or it would never be answered."""
        if images and self._waiting_images and self._waiting_images + images > self._limits.waiting_images:
            raise self._overloaded(
                "TOO_MANY_WAITING_IMAGES",
                f"{self._waiting_images} pictures wait to be decoded, and {images} more would be above the "
                f"limit of {self._limits.waiting_images}; try again",
            )

    def _check_deadline(self, ticket: Ticket) -> None:
        """Refuses what is known to come too late."""
        if ticket.deadline is None:
            return
        wait = 0.0
        if not self._can_start(ticket):
            wait = self._wait_behind(self._queue.ahead_of(ticket.caller, ticket.priority))
        expected = wait + (self._pace.first_token_seconds() or 0.0)
        left = ticket.deadline - ticket.entered
        if expected > left:
            raise OverloadedError(
                "DEADLINE_UNREACHABLE",
                f"the first token is expected in {expected:.1f} s, after the deadline in {left:.1f} s; "
                "allow more time, or ask another server",
                retry_seconds=self._retry_seconds(expected - left),
                # By the time at which it pays to try again, the deadline will have passed.
                retryable=False,
            )

    def _make_room(self, ticket: Ticket) -> Ticket | None:
        """Who has to leave the queue for the ticket to fit into it; None when it fits as it is."""
        if self._can_start(ticket) or (problem := self._does_not_fit(ticket, leaving=None)) is None:
            return None
        displaced = self._queue.displaced_by(ticket.caller, ticket.priority)
        if displaced is None or self._does_not_fit(ticket, leaving=displaced) is not None:
            raise problem
        return displaced

    def _does_not_fit(self, ticket: Ticket, leaving: Ticket | None) -> OverloadedError | None:
        """Why the ticket cannot wait, once `leaving` has left; None when it can."""
        requests, tokens = len(self._queue), self._waiting_tokens
        if leaving is not None:
            requests, tokens = requests - 1, tokens - leaving.cost.tokens
        if requests >= self._limits.waiting:
            return self._overloaded(
                "TOO_MANY_WAITING_REQUESTS",
                f"the server answers as many requests as it can, and {requests} wait already; try again",
            )
        # A prompt above the limit can wait alone, or it would never be answered.
        if requests and tokens + ticket.cost.tokens > self._limits.waiting_tokens:
            return self._overloaded(
                "TOO_MANY_WAITING_TOKENS",
                f"prompts of some {tokens} tokens wait already, and this one's {ticket.cost.tokens} would be "
                f"above the limit of {self._limits.waiting_tokens}; try again",
            )
        return None

    def _start_next(self) -> None:
        """Starts those whose turn it is, for as long as there is room."""
        while (claim := self._next_claim()) is not None:
            self._claims.serve(claim)
            self._give_image_memory(claim.ticket, claim.size)
            claim.given.set_result(None)
        now = self._clock()
        while (ticket := self._next()) is not None:
            if self._comes_too_late(ticket, now):
                continue
            self._queue.serve(ticket)
            self._no_longer_waits(ticket)
            self._give_image_memory(ticket, ticket.cost.image_bytes)
            ticket.start(now)
            if not ticket.cost.sequences:
                continue
            self._running += 1
            self._running_sequences[ticket.caller] += ticket.cost.sequences
            for listener in self._listeners:
                listener.admitted(ticket.caller, now - ticket.entered)

    def _next(self) -> Ticket | None:
        """Whose turn it is among those that there is room for.

        Nobody overtakes a request in what that one waits for, or it would never find enough: places in the
        engine, or memory for pictures. Who waits for memory is passed by those who need none, and who waits
        because its own caller has too much of it holds up nobody.
        """
        full = False
        no_memory = any(not self._image_memory.fits_server(claim.size) for claim in self._all_claims())
        for ticket in self._queue.in_turn(self._running_sequences):
            size = ticket.cost.image_bytes
            if size and no_memory:
                continue
            if not self._image_memory.fits(ticket.caller, size):
                no_memory = not self._image_memory.fits_server(size)
            elif not ticket.cost.sequences or (not full and self._has_room(ticket)):
                return ticket
            else:
                full = True
        return None

    def _next_claim(self) -> _Claim | None:
        """Which running request gets the memory that it waits for."""
        for claim in self._all_claims():
            if self._image_memory.fits(claim.caller, claim.size):
                return claim
            if not self._image_memory.fits_server(claim.size):
                return None
        return None

    def _all_claims(self) -> Iterator[_Claim]:
        return self._claims.in_turn(self._image_memory.callers)

    def _give_image_memory(self, ticket: Ticket, size: int) -> None:
        self._image_memory.take(ticket.caller, size)
        ticket.image_bytes = size

    def _comes_too_late(self, ticket: Ticket, now: float) -> bool:
        """Refuses a request that could not even get its first token any more."""
        needed = self._pace.first_token_seconds() or 0.0
        if ticket.deadline is None or now + needed <= ticket.deadline:
            return False
        error = OverloadedError(
            "DEADLINE_UNREACHABLE",
            "the request has waited so long that it cannot be answered before its deadline; allow more time",
            retry_seconds=self._retry_seconds(self._wait_behind(len(self._queue)) or None),
            retryable=False,
        )
        self._refuse(ticket, error)
        return True

    def _refuse(self, ticket: Ticket, error: OverloadedError) -> None:
        """Takes the ticket out of the queue for good."""
        self._drop(ticket)
        ticket.refuse(error)
        self._tell_refused(ticket.caller, error)

    def _drop(self, ticket: Ticket) -> None:
        """Takes the ticket out of the queue."""
        self._queue.remove(ticket)
        self._no_longer_waits(ticket)

    def _no_longer_waits(self, ticket: Ticket) -> None:
        self._waiting_tokens -= ticket.cost.tokens
        self._waiting_image_bytes -= ticket.cost.image_bytes

    def _leave(self, ticket: Ticket, started: float) -> None:
        """The request runs no more."""
        if not ticket.cost.sequences:
            return
        self._running -= 1
        self._running_sequences[ticket.caller] -= ticket.cost.sequences
        self._pace.note_run(self._clock() - started)

    def _has_room(self, ticket: Ticket) -> bool:
        """Whether the engine can take the request. One that asks for more than there is runs alone."""
        sequences = self._running_sequences.total()
        return not sequences or sequences + ticket.cost.sequences <= self._limits.running

    def _can_start(self, ticket: Ticket) -> bool:
        """Whether the ticket would start at once: there is room, and nobody waits for the same."""
        memory, size = self._image_memory, ticket.cost.image_bytes
        if not memory.fits(ticket.caller, size):
            return False
        waiting = list(self._queue.in_turn(self._running_sequences))
        ahead = [
            *(other.cost.image_bytes for other in waiting),
            *(claim.size for claim in self._all_claims()),
        ]
        if size and not all(memory.fits_server(other) for other in ahead):
            return False
        if not ticket.cost.sequences:
            return True
        return self._has_room(ticket) and not any(
            other.cost.sequences and memory.fits(other.caller, other.cost.image_bytes) for other in waiting
        )

    def _wait_behind(self, requests: int) -> float:
        """Seconds until so many and one more have started; 0 without evidence."""
        return (requests + 1) * (self._pace.run_seconds() or 0.0) / self._limits.running

    def _overloaded(self, reason: str, message: str) -> OverloadedError:
        """A refusal that ends when what waits now has gone."""
        wait = self._wait_behind(len(self._queue)) or None
        return OverloadedError(reason, message, retry_seconds=self._retry_seconds(wait))

    def _retry_seconds(self, estimate: float | None) -> float:
        """Bounded, and spread so that those who are refused together do not come back together."""
        seconds = _DEFAULT_RETRY_SECONDS if estimate is None else estimate
        spread = seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
        return min(max(spread, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)

    @contextmanager
    def _telling_refusals(self, caller: str) -> Iterator[None]:
        try:
            yield
        except OverloadedError as error:
            self._tell_refused(caller, error)
            raise

    def _tell_refused(self, caller: str, error: OverloadedError) -> None:
        for listener in self._listeners:
            listener.refused(caller, error.reason)
