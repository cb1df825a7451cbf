"""What all services have in common that ask the model: from a request that came to what the engine gives."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from octet.engine.protocol import Engine
from octet.engine.types import (
    Deltas,
    Embedding,
    EmbeddingRequest,
    Event,
    GenerationRequest,
    PromptAccepted,
)
from octet.rpc import call
from octet.rpc.admission.admission import Admission
from octet.rpc.admission.cost import Cost
from octet.rpc.admission.ticket import Ticket
from octet.rpc.progress import Progress
from octet.rpc.prompts_in_turn import PromptsInTurn
from octet.rpc.running import CancelledByCallerError, RunningRequest, RunningRequests
from octet.telemetry.answers import AnswerMeter, AnswerSummary, summary_of
from octet.telemetry.metrics import Metrics
from octet.telemetry.tracing import Tracing
from octet.telemetry.transcript import Transcript

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Asked(Generic[R]):
    """A request whose prompts were counted.

    Attributes:
        costs: what each of them takes; at least one.
        translate: checks and converts the prompt at a place, when its turn has come. With the one at place 0,
            which comes before all others, it says what is wrong with the request as a whole.
    """

    costs: Sequence[Cost]
    translate: Callable[[int, Ticket], Awaitable[R]]

    def progress(self) -> list[Progress]:
        """How far each prompt has come: nowhere."""
        return [Progress(cost.sequences) for cost in self.costs]


class Answering:
    """Has the engine answer requests.

    Args:
        running: the requests that are being answered.
        admission: lets requests in.
        metrics: count what the answers take.
        tracing: makes spans of an answer's parts.
        log_prompts: how many characters of each prompt and answer are logged.
    """

    def __init__(
        self,
        running: RunningRequests,
        admission: Admission,
        metrics: Metrics,
        tracing: Tracing,
        log_prompts: int,
    ) -> None:
        self._running = running
        self._admission = admission
        self._metrics = metrics
        self._tracing = tracing
        self._log_prompts = log_prompts

    async def events(
        self,
        engine: Engine,
        asked: Asked[GenerationRequest],
        time_left: float | None,
        progress: Sequence[Progress],
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """The engine's events for the current call's request, complete even if it is cancelled by its id.

        Args:
            engine: who answers.
            asked: the request.
            time_left: seconds until its deadline; None for no deadline.
            progress: follows each prompt; the event that was given last is noted there.

        Returns:
            Events, each with its prompt's place in the request.
        """
        summaries: list[AnswerSummary] = []

        async def begin(index: int, ticket: Ticket) -> AsyncGenerator[Event, None]:
            with self._tracing.part("translate"):
                translated = await asked.translate(index, ticket)
                generating = self._generate(engine, replace(translated, rank=ticket.rank), ticket, summaries)
                # The engine alone has the pictures now, and lets go of them when it can.
                del translated
            self._admission.images_decoded(ticket)
            return generating

        prompts = PromptsInTurn(self._admission, self._tracing, asked.costs, begin)
        with self._registered(time_left, summaries) as running:
            try:
                async with aclosing(prompts.answer(running, time_left)) as events:
                    async for index, event in events:
                        progress[index].note(event)
                        yield index, event
            except CancelledByCallerError:
                await call.accept()
                for index, one in enumerate(progress):
                    for event in one.cancel():
                        yield index, event

    async def embeddings(
        self, engine: Engine, asked: Asked[EmbeddingRequest], time_left: float | None
    ) -> list[Embedding]:
        """The vectors for the inputs of the current call's request, in their order.

        Args:
            engine: who answers.
            asked: the request.
            time_left: seconds until its deadline; None for no deadline.

        Raises:
            CancelledByCallerError: somebody has cancelled the request by its id.
        """
        summaries: list[AnswerSummary] = []

        async def begin(index: int, ticket: Ticket) -> AsyncGenerator[Embedding, None]:
            with self._tracing.part("translate"):
                translated = await asked.translate(index, ticket)
            return self._embed(engine, replace(translated, rank=ticket.rank), summaries)

        prompts = PromptsInTurn(self._admission, self._tracing, asked.costs, begin)
        with self._registered(time_left, summaries) as running:
            async with aclosing(prompts.answer(running, time_left)) as answers:
                found = {index: embedding async for index, embedding in answers}
        return [found[index] for index in range(len(asked.costs))]

    @contextmanager
    def _registered(
        self, time_left: float | None, summaries: Sequence[AnswerSummary]
    ) -> Iterator[RunningRequest]:
        """Counts the current call's request as running; log and trace learn what its answers come to."""
        request_id = call.request_id.get()
        with self._running.register(call.caller.get(), request_id, time_left) as running:
            try:
                yield running
            finally:
                if summaries:
                    call.answer.set(summary_of(summaries))

    async def _generate(
        self, engine: Engine, generation: GenerationRequest, ticket: Ticket, summaries: list[AnswerSummary]
    ) -> AsyncGenerator[Event, None]:
        """The engine's events, measured."""
        meter = AnswerMeter(
            self._metrics, call.caller.get(), call.arrived.get(), candidates=generation.sampling.n
        )
        summaries.append(meter.summary)
        transcript = Transcript(generation, self._log_prompts) if self._log_prompts else None
        try:
            with self._tracing.part("generate") as span:
                answering = engine.generate(replace(generation, trace_headers=self._tracing.headers(span)))
                del generation
                async with aclosing(answering) as events:
                    async for event in events:
                        if isinstance(event, PromptAccepted):
                            # The engine has made of the pictures what it needs.
                            self._admission.hold_image_memory(ticket, 0)
                        else:
                            self._admission.first_token(ticket)
                        meter.note(event)
                        if transcript is not None:
                            transcript.note(event)
                        yield event
        finally:
            meter.report()
            if transcript is not None:
                transcript.log()

    async def _embed(
        self, engine: Engine, request: EmbeddingRequest, summaries: list[AnswerSummary]
    ) -> AsyncGenerator[Embedding, None]:
        """The vector, measured."""
        meter = AnswerMeter(self._metrics, call.caller.get(), call.arrived.get(), candidates=0)
        summaries.append(meter.summary)
        if self._log_prompts:
            Transcript(request, self._log_prompts).log()
        with self._tracing.part("embed") as span:
            embedding = await engine.embed(replace(request, trace_headers=self._tracing.headers(span)))
        meter.note(Deltas((), embedding.usage))
        meter.report()
        yield embedding
