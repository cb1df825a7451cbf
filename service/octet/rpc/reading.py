"""Requests out of bytes, without keeping the event loop from other calls."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from octet.errors import InvalidRequestError, MalformedRequestError
from octet.rpc.fair_threads import FairThreads
from octet.translate.request_limits import RequestLimits
from octet.translate.wire import SMALL_BYTES, check_wire


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for the request of a call that carries none, until the call's turn to be answered.

    Attributes:
        error: what the call ends with.
    """

    error: InvalidRequestError


class RequestReader:
    """Parses requests.

    Args:
        threads: where large ones are looked at before.
    """

    def __init__(self, threads: FairThreads) -> None:
        self._threads = threads
        self._limits = RequestLimits()

    def open(self, limits: RequestLimits) -> None:
        """Sets how much a request may hold; before, it is what any model's may."""
        self._limits = limits

    async def read(self, data: bytes, message: type[Any]) -> Any:
        """The request of class `message` that `data` is, or an `Unreadable`."""
        if len(data) > SMALL_BYTES:
            try:
                await self._threads.run(check_wire, data, message.DESCRIPTOR, self._limits)
            except InvalidRequestError as error:
                return Unreadable(error)
        return parse(data, message)

    def read_small(self, data: bytes, message: type[Any]) -> Any:
        """The same for methods whose requests are small; what is not is `Unreadable`."""
        if len(data) > SMALL_BYTES:
            return Unreadable(
                MalformedRequestError(
                    "", f"has {len(data)} bytes, more than the {SMALL_BYTES} of one message"
                )
            )
        return parse(data, message)


def parse(data: bytes, message: type[Any]) -> Any:
    """The request of class `message` that `data` is, or an `Unreadable`."""
    try:
        return message.FromString(data)
    except DecodeError as error:
        # "Error parsing message with type 'octet.v1.ChatRequest': String field had bad UTF-8"
        return Unreadable(MalformedRequestError("", f"the call's message cannot be read: {error}"))
