"""What can be learnt of admission, for whoever counts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from octet.errors import OverloadedError


@dataclass(frozen=True, slots=True)
class Load:
    """What there is at a moment.

    Attributes:
        running: requests that the engine was given.
        running_sequences: their candidates.
        waiting: requests that wait for their turn.
        waiting_tokens: tokens of their prompts, estimated.
        waiting_images: pictures that are not decoded yet.
        token_calls: CountTokens, Tokenize and Detokenize calls, answered or waiting.
        image_bytes: memory given to requests for their pictures.
        waiting_image_bytes: what requests that wait for their turn need for theirs.
    """

    running: int
    running_sequences: int
    waiting: int
    waiting_tokens: int
    waiting_images: int
    token_calls: int
    image_bytes: int = 0
    waiting_image_bytes: int = 0


class AdmissionListener(Protocol):
    """Is told what happens to requests, on the event loop; must not raise."""

    def admitted(self, caller: str, queue_seconds: float) -> None:
        """A request of `caller`, the name of a key, goes to the engine after it has waited so long."""
        ...

    def refused(self, caller: str, reason: str) -> None:
        """A call of `caller` is refused; `reason` is that of its ErrorInfo."""
        ...


class Listeners:
    """Tells all who listen."""

    def __init__(self) -> None:
        self._listeners: list[AdmissionListener] = []

    def add(self, listener: AdmissionListener) -> None:
        """Tells `listener` what happens from now on."""
        self._listeners.append(listener)

    def admitted(self, caller: str, queue_seconds: float) -> None:
        """A request goes to the engine."""
        for listener in self._listeners:
            listener.admitted(caller, queue_seconds)

    def refused(self, caller: str, reason: str) -> None:
        """A call is refused."""
        for listener in self._listeners:
            listener.refused(caller, reason)

    @contextmanager
    def told_refusals(self, caller: str) -> Iterator[None]:
        """Tells of an `OverloadedError` in the context, and passes it on."""
        try:
            yield
        except OverloadedError as error:
            self.refused(caller, error.reason)
            raise
