"""What can be learnt of admission, for whoever counts it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Load:
    """What there is at a moment.

    Attributes:
        running: requests that the engine was given.
        running_sequences: their candidates.
        waiting: requests that wait for their turn.
        waiting_tokens: tokens of their prompts, estimated.
        waiting_images: pictures that are not decoded yet.
        token_calls: CountTokens, Tokenize and Detokenize calls.
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
