"""How far an answer has come, and what is still owed to the client when it is cancelled."""

from collections.abc import Iterator

from octet.engine.types import CandidateFinished, Deltas, Event, FinishReason, PromptAccepted, Usage


class Progress:
    """Follows the events of one prompt's answer.

    Attributes:
        usage: what it has taken until now.

    Args:
        candidates: how many the answer will have.
    """

    def __init__(self, candidates: int) -> None:
        self._accepted = False
        self._unfinished = set(range(candidates))
        self.usage = Usage(prompt_tokens=0, completion_tokens=0, cached_tokens=0, image_tokens=0)

    def note(self, event: Event) -> None:
        """Takes account of `event`."""
        if isinstance(event, PromptAccepted):
            self._accepted = True
            self.usage = Usage(
                prompt_tokens=event.prompt_tokens,
                completion_tokens=0,
                cached_tokens=0,
                image_tokens=event.image_tokens,
            )
            return
        self.usage = event.usage
        for delta in event.deltas:
            if isinstance(delta, CandidateFinished):
                self._unfinished.discard(delta.index)

    @property
    def complete(self) -> bool:
        """Whether every candidate has ended."""
        return not self._unfinished

    def cancel(self) -> Iterator[Event]:
        """Ends the answer: gives the events that complete it, CANCELLED for what is unfinished."""
        if not self._accepted:
            yield PromptAccepted(prompt_tokens=0, image_tokens=0)
        if self._unfinished:
            unfinished = sorted(self._unfinished)
            self._unfinished.clear()
            ends = tuple(CandidateFinished(index, FinishReason.CANCELLED) for index in unfinished)
            yield Deltas(deltas=ends, usage=self.usage)
