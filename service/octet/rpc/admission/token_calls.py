"""The queue of the calls about tokens: CountTokens, Tokenize and Detokenize."""

from dataclasses import replace

from octet.errors import OverloadedError
from octet.rpc.admission.image_memory import ImageMemory, MemoryLine
from octet.rpc.admission.listener import Listeners
from octet.rpc.admission.retry import retry_seconds
from octet.rpc.admission.ticket import Ticket
from octet.rpc.admission.turns import Turns

TOKEN_CALLS_AT_ONCE = 3
"""Calls about tokens that are answered at the same time."""


class TokenCalls:
    """Calls about tokens, answered and waiting.

    A call gets its turn together with the memory that its pictures take, and has neither while it waits. With
    the turn first, those of callers whose memory is used up would keep all turns from calls that need no
    memory; with the memory first, it would lie idle in the queue, and whoever has a turn could wait for it.

    Args:
        memory: for pictures.
        listeners: are told who had to make room.
    """

    def __init__(self, memory: ImageMemory, listeners: Listeners) -> None:
        self._memory = memory
        self._listeners = listeners
        self._limit = 0
        self._turns: Turns[Ticket] = Turns(TOKEN_CALLS_AT_ONCE)
        self._waiting_image_bytes = 0

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def waiting_image_bytes(self) -> int:
        """What those that wait need for their pictures."""
        return self._waiting_image_bytes

    @property
    def lacking(self) -> bool:
        """Whether one waits for memory that the server has not enough of."""
        return any(not self._memory.fits_server(ticket.cost.image_bytes) for ticket in self._turns.ready())

    def of(self, caller: str) -> int:
        """How many a caller has, answered and waiting."""
        return self._turns.of(caller)

    def open(self, limit: int) -> None:
        """Sets how many there may be."""
        self._limit = limit

    def push(self, ticket: Ticket) -> None:
        """Has a call wait; another one makes room for it if there are too many.

        Raises:
            OverloadedError: nobody has to make room for it.
        """
        if len(self) >= self._limit:
            self._make_room(ticket.caller)
        self._wait(ticket)

    def start_next(self, line: MemoryLine, now: float) -> Ticket | None:
        """Starts the call whose turn it is, and gives it its memory.

        Args:
            line: knows who can have memory.
            now: the time.

        Returns:
            The call's ticket; None when there is no turn, or no memory, for anybody who waits.
        """
        ticket = self._turns.next(line.lets_pass)
        if ticket is not None:
            self._turns.serve(ticket)
            self._waiting_image_bytes -= ticket.cost.image_bytes
            self._memory.give(ticket, ticket.cost.image_bytes)
            ticket.start(now)
        return ticket

    def wait_again(self, ticket: Ticket, image_bytes: int) -> None:
        """Takes a call's turn back until there is also so much memory for its pictures."""
        self._turns.leave(ticket.caller)
        ticket.wait_again(replace(ticket.cost, image_bytes=image_bytes))
        self._wait(ticket)

    def leave(self, ticket: Ticket) -> None:
        """The call has ended, whatever it did."""
        if ticket.started is not None:
            self._turns.leave(ticket.caller)
        elif ticket.refusal is None:
            self._drop(ticket)

    def _make_room(self, caller: str) -> None:
        displaced = self._turns.displaced_by(caller)
        if displaced is None:
            raise _too_many(
                f"{len(self)} calls about tokens are answered or wait, as many as may at the same time; "
                "try again"
            )
        self._drop(displaced)
        error = _too_many("it had to make room for one of a caller with fewer; try again")
        displaced.refuse(error)
        self._listeners.refused(displaced.caller, error.reason)

    def _wait(self, ticket: Ticket) -> None:
        self._turns.push(ticket)
        self._waiting_image_bytes += ticket.cost.image_bytes

    def _drop(self, ticket: Ticket) -> None:
        self._turns.drop(ticket)
        self._waiting_image_bytes -= ticket.cost.image_bytes


def _too_many(message: str) -> OverloadedError:
    # They take a fraction of a second, and nobody measures them.
    return OverloadedError("TOO_MANY_TOKEN_CALLS", message, retry_seconds=retry_seconds())
