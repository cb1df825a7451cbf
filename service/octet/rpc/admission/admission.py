"""Admission: refuses what there is no room for, makes the rest wait its turn, and gives the engine enough.

Requests wait here and not in the engine, which is given little more than it computes at once: here their
order is fair between callers, whoever gives up leaves at once and costs nothing, how long somebody waited is
known, and what waits is neither decoded nor rendered. Requests with pictures wait for the memory that these
will take as well; whatever needs none passes them meanwhile. Calls about tokens have a queue of their own.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from octet.errors import OverloadedError, Quota
from octet.rpc.admission.claims import Claims
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.demand import Demand
from octet.rpc.admission.fair_queue import FairQueue
from octet.rpc.admission.image_memory import ImageMemory, MemoryLine
from octet.rpc.admission.limits import Limits
from octet.rpc.admission.listener import AdmissionListener, Listeners, Load
from octet.rpc.admission.pace import Pace
from octet.rpc.admission.places import Places
from octet.rpc.admission.retry import retry_seconds
from octet.rpc.admission.ticket import Ticket
from octet.rpc.admission.token_calls import TokenCalls

_NOTHING = Limits(running=0, waiting=0, waiting_tokens=0, waiting_images=0, token_calls=0)


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
        self._clock = clock
        self._pace = Pace(clock)
        self._demand = Demand(clock)
        self._queue: FairQueue[Ticket] = FairQueue()
        self._image_memory = ImageMemory(limits.image_memory)
        self._claims = Claims(self._image_memory)
        self._waiting_sequences = 0
        # By caller, prompts that follow others of their request. One of a caller waits for each priority.
        self._following: Counter[str] = Counter()
        self._waiting_tokens = 0
        self._waiting_images = 0
        self._waiting_image_bytes = 0
        self._places = Places()
        self._listeners = Listeners()
        self._token_calls = TokenCalls(self._image_memory, self._listeners)
        self._token_calls_first = False
        self._in_flight: Counter[str] = Counter()
        self.open(limits)

    def open(self, limits: Limits) -> None:
        """Sets what there is room for."""
        self._limits = limits
        self._demand.open(limits)
        self._places.open(limits)
        self._image_memory.open(limits.image_memory)
        self._token_calls.open(limits.token_calls)

    def subscribe(self, listener: AdmissionListener) -> None:
        """Tells `listener` what happens from now on."""
        self._listeners.add(listener)

    def load(self) -> Load:
        """What there is now."""
        return Load(
            running=self._places.requests,
            running_sequences=self._places.sequences.total(),
            waiting=len(self._queue),
            waiting_tokens=self._waiting_tokens,
            waiting_images=self._waiting_images,
            token_calls=len(self._token_calls),
            image_bytes=self._image_memory.used,
            waiting_image_bytes=self._waiting_image_bytes + self._token_calls.waiting_image_bytes,
        )

    def demand(self) -> float:
        """Work in demand, over what the engine does at once; see `Demand`. Safe to call from all threads."""
        return self._demand.ratio()

    @contextmanager
    def enter(
        self,
        caller: str,
        cost: Cost,
        *,
        time_left: float | None = None,
        caller_limit: int | None = None,
        request_id: str = "",
        prompts: int = 1,
    ) -> Iterator[Ticket]:
        """Gives a request its place for as long as the context lasts; await its `turn`.

        Args:
            caller: the name of the key that it came with.
            cost: what it takes, or its first prompt does.
            time_left: seconds until its deadline; None for no deadline.
            caller_limit: requests that the caller may have here at the same time; None for any number.
            request_id: its id, by which a request that was refused is known again; empty where it has none.
            prompts: how many it has. All but the first one `enter_next`; as many of them as `Ticket.lanes`
                says may be here at the same time, as many as the caller may have requests.

        Raises:
            OverloadedError: when there is no room for it, or its deadline cannot be met.
        """
        now = self._clock()
        deadline = None if time_left is None else now + time_left
        ticket = Ticket(caller, cost, now, deadline, self._pace, request_id=request_id)
        self._demand.come(ticket)
        with self._noted_refusals(ticket):
            self._check_caller(caller, caller_limit, self._in_flight[caller], "requests")
            self._check_images(cost.images)
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
        ticket.lanes = (
            prompts if caller_limit is None else min(prompts, caller_limit - self._in_flight[caller])
        )
        self._in_flight[caller] += ticket.lanes
        self._wait(ticket)
        try:
            yield ticket
        finally:
            self._in_flight[caller] -= ticket.lanes
            self.leave(ticket)

    @contextmanager
    def enter_next(self, first: Ticket, cost: Cost) -> Iterator[Ticket]:
        """Gives a further prompt of a request that was let in its place; await its `turn`.

        It stands where it would if all prompts had come as requests of their own: right behind those before
        it, which have had their turns, and so before all else of its caller's. It is not refused for want of
        room, nor does it take any of what others have for waiting. One of a request's prompts may wait at a
        time.

        Args:
            first: the place of the request's first prompt, whose turn has come.
            cost: what this one takes.
        """
        ticket = Ticket(first.caller, cost, self._clock(), None, self._pace, follows=True)
        self._wait(ticket)
        try:
            yield ticket
        finally:
            self.leave(ticket)

    def leave(self, ticket: Ticket) -> None:
        """A request's or a prompt's place is free. Idempotent."""
        if ticket.left:
            return
        ticket.left = True
        self.images_decoded(ticket)
        self.hold_image_memory(ticket, 0)
        if ticket.started is not None:
            self._leave(ticket, ticket.started)
        elif ticket.refusal is None:
            self._drop(ticket)
        self._start_next()

    @contextmanager
    def enter_token_call(
        self, caller: str, images: int = 0, image_bytes: int = 0, *, caller_limit: int | None = None
    ) -> Iterator[Ticket]:
        """Gives a call that asks about tokens its place while the context lasts; await its `turn`.

        Its deadline is nobody's business here: nobody knows how long such a call takes, and whoever has none
        left leaves.

        Args:
            caller: the name of the key that it came with.
            images: pictures of the prompt whose tokens are counted.
            image_bytes: memory that decoding them takes.
            caller_limit: such calls that the caller may have here at the same time; None for any number.

        Raises:
            OverloadedError: when there is no room for it.
        """
        cost = Cost(sequences=0, images=images, image_bytes=image_bytes)
        ticket = Ticket(caller, cost, self._clock(), None, self._pace)
        with self._listeners.told_refusals(caller):
            self._check_caller(caller, caller_limit, self._token_calls.of(caller), "calls about tokens")
            self._check_images(images)
            self._token_calls.push(ticket)
        self._waiting_images += images
        self._start_next()
        try:
            yield ticket
        finally:
            self.images_decoded(ticket)
            self.hold_image_memory(ticket, 0)
            self._token_calls.leave(ticket)
            self._start_next()

    def images_decoded(self, ticket: Ticket) -> None:
        """The request's pictures wait no more. Idempotent."""
        self._waiting_images -= ticket.images
        ticket.images = 0

    async def take_image_memory(self, ticket: Ticket, size: int) -> None:
        """Returns when a running request has so many bytes for its pictures, which were elsewhere until now.

        It gives back what it has, so that no two wait for each other's. Before it go those who are waiting so
        already, as the callers take turns; after it, those whose turn has not come. A call about tokens, of
        which few have their turn, gives that back as well and waits for both.

        Raises:
            OverloadedError: when a call about tokens had to make room meanwhile.
        """
        self.hold_image_memory(ticket, 0)
        if not size:
            return
        if not ticket.cost.sequences:
            self._token_calls.wait_again(ticket, size)
            self._start_next()
            await ticket.turn()
            return
        claim = self._claims.push(ticket, size)
        self._start_next()
        try:
            await claim.given
        except asyncio.CancelledError:
            if claim.given.cancelled():
                self._claims.drop(claim)
                self._start_next()
            raise

    def hold_image_memory(self, ticket: Ticket, size: int) -> None:
        """The request needs no more than so many bytes for its pictures from now on; others get the rest."""
        if size < ticket.image_bytes:
            self._image_memory.give(ticket, size)
            self._start_next()

    def first_token(self, ticket: Ticket) -> None:
        """The request's answer has begun. Idempotent."""
        ticket.note_first_token(self._clock())
        if ticket.reads_prompt:
            self._places.answered(ticket)
            self._start_next()

    def _wait(self, ticket: Ticket) -> None:
        """Puts a ticket into the queue, and starts whoever is next."""
        self._demand.enter(ticket)
        self._queue.push(ticket, first=ticket.follows)
        if ticket.follows:
            self._following[ticket.caller] += 1
        else:
            self._waiting_tokens += ticket.cost.tokens
        self._waiting_sequences += ticket.cost.sequences
        self._waiting_images += ticket.cost.images
        self._waiting_image_bytes += ticket.cost.image_bytes
        self._start_next()

    def _check_caller(self, caller: str, limit: int | None, in_flight: int, what: str) -> None:
        if limit is not None and in_flight >= limit:
            raise OverloadedError(
                "KEY_LIMIT_REACHED",
                f"the key {caller} has {limit} {what} at the same time, as many as it may; "
                "wait until one is answered",
                retry_seconds=retry_seconds(self._pace.run_seconds()),
                quota=Quota(f"key:{caller}", f"{limit} {what} at the same time"),
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
                retry_seconds=retry_seconds(expected - left),
                # By the time at which it pays to try again, the deadline will have passed.
                retryable=False,
            )

    def _make_room(self, ticket: Ticket) -> Ticket | None:
        """Who has to leave the queue for the ticket to fit into it; None when it fits as it is."""
        if self._can_start(ticket) or (problem := self._does_not_fit(ticket, leaving=None)) is None:
            return None
        displaced = self._queue.displaced_by(
            ticket.caller, ticket.priority, can_leave=lambda other: not other.follows
        )
        if displaced is None or self._does_not_fit(ticket, leaving=displaced) is not None:
            raise problem
        return displaced

    def _does_not_fit(self, ticket: Ticket, leaving: Ticket | None) -> OverloadedError | None:
        """Why the ticket cannot wait, once `leaving` has left; None when it can."""
        # Prompts that follow others of their request are nobody's business but their caller's.
        requests = len(self._queue) - self._following.total() + self._following[ticket.caller]
        tokens = self._waiting_tokens
        # Where there are places, who waits for his own earlier prompts to be read would wait in the engine.
        sequences = self._places.sequences.total() + self._waiting_sequences
        if sequences + ticket.cost.sequences <= self._limits.running and not self._places.are_due(ticket):
            return None
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
        self._claims.serve()
        while self._start_one():
            pass

    def _start_one(self) -> bool:
        """Starts or refuses whoever is next, a request or a call about tokens; False when nobody is.

        They need nothing of each other's but memory for pictures. At that the two take turns: whoever goes
        first now is the one that the other has gone before.
        """
        line = MemoryLine(self._image_memory, lacking=self._claims.lacking)
        if self._token_calls_first:
            return self._start_token_call(line) or self._start_request(line)
        return self._start_request(line) or self._start_token_call(line)

    def _start_token_call(self, line: MemoryLine) -> bool:
        ticket = self._token_calls.start_next(line, self._clock())
        if ticket is not None and ticket.image_bytes:
            self._token_calls_first = False
        return ticket is not None

    def _start_request(self, line: MemoryLine) -> bool:
        now = self._clock()
        ticket = self._next(line)
        if ticket is None:
            return False
        if self._comes_too_late(ticket, now):
            return True
        self._queue.serve(ticket)
        self._no_longer_waits(ticket)
        self._image_memory.give(ticket, ticket.cost.image_bytes)
        if ticket.image_bytes:
            self._token_calls_first = True
        ticket.rank = self._places.sequences[ticket.caller]
        self._places.take(ticket)
        ticket.start(now)
        self._listeners.admitted(ticket.caller, now - ticket.entered)
        return True

    def _next(self, line: MemoryLine) -> Ticket | None:
        """Which request's turn it is among those whose memory is there, and whose caller has not too much.

        Nobody overtakes one that needs more places in the engine than there are: it would never find enough.
        """
        for ticket in self._queue.in_turn(self._places.sequences):
            if self._places.are_due(ticket) and line.lets_pass(ticket):
                return ticket if self._places.are_free(ticket) else None
        return None

    def _comes_too_late(self, ticket: Ticket, now: float) -> bool:
        """Refuses a request that could not even get its first token any more."""
        needed = self._pace.first_token_seconds() or 0.0
        if ticket.deadline is None or now + needed <= ticket.deadline:
            return False
        error = OverloadedError(
            "DEADLINE_UNREACHABLE",
            "the request has waited so long that it cannot be answered before its deadline; allow more time",
            retry_seconds=retry_seconds(self._wait_behind(len(self._queue)) or None),
            retryable=False,
        )
        self._refuse(ticket, error)
        return True

    def _refuse(self, ticket: Ticket, error: OverloadedError) -> None:
        """Takes the ticket out of the queue for good."""
        self._drop(ticket)
        ticket.refuse(error)
        self._note_refusal(ticket, error)

    @contextmanager
    def _noted_refusals(self, ticket: Ticket) -> Iterator[None]:
        """Notes an `OverloadedError` in the context, and passes it on."""
        try:
            yield
        except OverloadedError as error:
            self._note_refusal(ticket, error)
            raise

    def _note_refusal(self, ticket: Ticket, error: OverloadedError) -> None:
        self._demand.refuse(ticket, error, self._pace.run_seconds())
        self._listeners.refused(ticket.caller, error.reason)

    def _drop(self, ticket: Ticket) -> None:
        """Takes the ticket out of the queue."""
        self._queue.remove(ticket)
        self._no_longer_waits(ticket)
        self._demand.leave(ticket)

    def _no_longer_waits(self, ticket: Ticket) -> None:
        if ticket.follows:
            self._following[ticket.caller] -= 1
        else:
            self._waiting_tokens -= ticket.cost.tokens
        self._waiting_sequences -= ticket.cost.sequences
        self._waiting_image_bytes -= ticket.cost.image_bytes

    def _leave(self, ticket: Ticket, started: float) -> None:
        """The request runs no more."""
        self._demand.leave(ticket)
        self._places.leave(ticket)
        self._pace.note_run(self._clock() - started)

    def _can_start(self, ticket: Ticket) -> bool:
        """Whether the ticket would start at once: there is room, and nobody waits for the same."""
        memory, size = self._image_memory, ticket.cost.image_bytes
        if not memory.fits(ticket.caller, size) or not self._places.are_due(ticket):
            return False
        waiting = list(self._queue.in_turn(self._places.sequences))
        lacking = (
            self._claims.lacking
            or self._token_calls.lacking
            or not all(memory.fits_server(other.cost.image_bytes) for other in waiting)
        )
        if size and lacking:
            return False
        return self._places.are_free(ticket) and not any(
            memory.fits(other.caller, other.cost.image_bytes) and self._places.are_due(other)
            for other in waiting
        )

    def _wait_behind(self, requests: int) -> float:
        """Seconds until so many and one more have started; 0 without evidence."""
        return (requests + 1) * (self._pace.run_seconds() or 0.0) / self._limits.running

    def _overloaded(self, reason: str, message: str) -> OverloadedError:
        """A refusal that ends when what waits now has gone."""
        wait = self._wait_behind(len(self._queue)) or None
        return OverloadedError(reason, message, retry_seconds=retry_seconds(wait))
