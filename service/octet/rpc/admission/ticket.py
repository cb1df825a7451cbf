"""A request's place, as long as it waits and runs."""

import asyncio

from octet.errors import OverloadedError
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.pace import Pace


class Ticket:
    """A request's place: in the queue at first, then among those that run.

    Attributes:
        caller: the name of the key that it came with.
        cost: what it takes.
        entered: when it came.
        deadline: when it has to be answered; None for no deadline.
        request_id: the request's id, the same however often its client tries it; empty where it has none.
        images: its pictures that are not decoded yet.
        image_bytes: memory that it was given for pictures.
        started: when its turn came; None until then.
        refusal: why its turn will not come.
        reads_prompt: whether the engine has it and has not read its prompt yet.
        rank: sequences that its caller had in the engine when its turn came.
        follows: whether it is of a request's further prompt, and not to be sent away any more.
        lanes: how many prompts of the request may be here at the same time.
        left: whether it is here no more.
    """

    def __init__(
        self,
        caller: str,
        cost: Cost,
        entered: float,
        deadline: float | None,
        pace: Pace,
        *,
        request_id: str = "",
        follows: bool = False,
    ) -> None:
        self.caller = caller
        self.cost = cost
        self.entered = entered
        self.deadline = deadline
        self.request_id = request_id
        self.images = cost.images
        self.image_bytes = 0
        self.started: float | None = None
        self.refusal: OverloadedError | None = None
        self.reads_prompt = False
        self.rank = 0
        self.follows = follows
        self.lanes = 1
        self.left = False
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

    def wait_again(self, cost: Cost) -> None:
        """It gives up its turn, and takes something else than it seemed."""
        self.cost = cost
        self.started = None
        self._decided.clear()

    def refuse(self, error: OverloadedError) -> None:
        """It will not get its turn."""
        self.refusal = error
        self._decided.set()

    def note_first_token(self, now: float) -> None:
        """The answer has begun; all but the first time nothing happens."""
        if self._waits_for_token and self.started is not None:
            self._waits_for_token = False
            self._pace.note_first_token(now - self.started)
