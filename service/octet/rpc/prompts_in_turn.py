"""The prompts of a request: let in, answered when their turns come, and stopped together."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from typing import Any, Generic, TypeVar

from octet.rpc import call
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.ticket import Ticket
from octet.rpc.running import RunningRequest
from octet.telemetry.tracing import Tracing

T = TypeVar("T")


class PromptsInTurn(Generic[T]):
    """Gives what comes of each prompt of one request, with the prompt's place in it.

    Args:
        admission: lets requests in.
        tracing: makes spans of what is done.
        costs: what each prompt takes; at least one.
        begin: translates the prompt at a place, whose turn has come, and gives what answers it. For the first
            one it comes back before it is called for another.
    """

    def __init__(
        self,
        admission: Admission,
        tracing: Tracing,
        costs: Sequence[Cost],
        begin: Callable[[int, Ticket], Awaitable[AsyncGenerator[T, None]]],
    ) -> None:
        self._admission = admission
        self._tracing = tracing
        self._costs = costs
        self._begin = begin

    async def answer(
        self, running: RunningRequest, time_left: float | None
    ) -> AsyncGenerator[tuple[int, T], None]:
        """Answers the current call's request.

        Args:
            running: stops it.
            time_left: seconds until its deadline; None for no deadline.

        Raises:
            OctetError: what has stopped it.
        """
        with self._admission.enter(
            call.caller.get(),
            self._costs[0],
            time_left=time_left,
            caller_limit=call.caller_limits.get().max_concurrent_requests,
            request_id=call.request_id.get(),
            prompts=len(self._costs),
        ) as ticket:
            with self._tracing.part("queue"):
                await running.wait_for(ticket.turn)
            first = await running.wait_for(self._begin, 0, ticket)
            alone = len(self._costs) == 1
            answers = _only(first, running) if alone else self._side_by_side(first, ticket, running)
            accepted = False
            async with aclosing(answers):
                async for answer in answers:
                    if not accepted:
                        # Not before: of requests that come together, none would reach the engine until all
                        # clients have been told.
                        await call.accept()
                        accepted = True
                    yield answer

    async def _side_by_side(
        self, first: AsyncGenerator[T, None], ticket: Ticket, running: RunningRequest
    ) -> AsyncGenerator[tuple[int, T], None]:
        """What comes of several prompts, as it comes.

        Each has a task, which goes on when what it gave has been taken: for a client that does not read
        nothing is read. They wait for their turns one after the other, and no more of them are answered at a
        time than the caller may have requests.
        """
        given: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(maxsize=1)
        lanes, door = asyncio.Semaphore(ticket.lanes), asyncio.Lock()

        async def answer(index: int) -> None:
            async with lanes:
                with ExitStack() as stack:
                    if index == 0:
                        stack.callback(self._admission.leave, ticket)
                        answers = first
                    else:
                        async with door:
                            place = self._admission.enter_next(ticket, self._costs[index])
                            mine = stack.enter_context(place)
                            with self._tracing.part("queue"):
                                await mine.turn()
                        answers = await self._begin(index, mine)
                    async with aclosing(answers):
                        async for item in answers:
                            await given.put((index, item))

        async def tell(index: int) -> None:
            try:
                await answer(index)
            except Exception as error:
                await given.put(error)
            else:
                await given.put(None)

        tasks = [asyncio.create_task(tell(index)) for index in range(len(self._costs))]
        try:
            unfinished = len(tasks)
            while unfinished:
                item = await running.wait_for(given.get)
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    unfinished -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _only(
    answers: AsyncGenerator[T, None], running: RunningRequest
) -> AsyncGenerator[tuple[int, T], None]:
    """What comes of the only prompt."""
    async with aclosing(answers):
        while (item := await running.wait_for(_next, answers)) is not None:
            yield 0, item


async def _next(answers: AsyncGenerator[Any, None]) -> Any:
    return await anext(answers, None)
