"""What is known about the call that is being answered, for whoever logs or decides on its behalf.

The interceptors set these; every task that answers a call has its own copy.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from octet.telemetry.answers import AnswerSummary


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What a caller may do; None leaves it to the server's own limits.

    Attributes:
        max_concurrent_requests: chats that may run or wait at the same time, over all of the caller's keys.
    """

    max_concurrent_requests: int | None = None


class InitialMetadata(Protocol):
    """The call's initial metadata."""

    async def send(self) -> None:
        """Sends it unless that is done."""
        ...


initial_metadata: ContextVar[InitialMetadata] = ContextVar("initial_metadata")
"""What `accept` sends; set in every call."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The call's request id; empty outside of a call."""

request_bytes: ContextVar[int] = ContextVar("request_bytes", default=0)
"""Length of the call's serialized request."""

caller: ContextVar[str] = ContextVar("caller", default="")
"""Whose call it is: the name of the key that it carried; empty on a server without keys."""

caller_limits: ContextVar[CallerLimits] = ContextVar("caller_limits", default=CallerLimits())  # noqa: B039
"""The limits of the caller, as the keys' file says; none on a server without keys."""

served: ContextVar[bool] = ContextVar("served", default=True)
"""Whether the method that was called is one that the server has."""

arrived: ContextVar[float] = ContextVar("arrived", default=0.0)
"""When the call arrived, by `time.monotonic`."""

answer: ContextVar["AnswerSummary | None"] = ContextVar("answer", default=None)
"""What the chat that the call asks for has come to; set by the servicer, None in other calls."""


async def accept() -> None:
    """Tells the client that its call is being answered, and the call's id. Idempotent.

    What is refused before can be tried again by the client's own gRPC, or by a proxy.
    """
    await initial_metadata.get().send()
