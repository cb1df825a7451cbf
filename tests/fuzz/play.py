"""Plays cases to a server over a real channel."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc._cython.cygrpc import ExecuteBatchError
from h2.exceptions import ProtocolError

from tests.fuzz.cases import Call, Case
from tests.fuzz.methods import WATCH
from tests.integration import http2

_CODES = {str(code.value[0]): code for code in grpc.StatusCode}

WATCH_SECONDS = 0.5
"""The deadline of calls that never end by themselves."""


@dataclass
class Outcome:
    """How a call went.

    Attributes:
        call: the call.
        code: its status; None where it did not end.
        details: the status' message.
        trailers: its trailing metadata.
        messages: what was answered, serialized.
        cancelled: whether the client cancelled it.
    """

    call: Call
    code: grpc.StatusCode | None = None
    details: str = ""
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    messages: list[bytes] = field(default_factory=list)
    cancelled: bool = False


# What gRPC's client says when a call ends before it has sent what begins it.
_NOT_BEGUN = "Internal error from Core"


# What it raises when it is to send something after the call's end.
_ENDED = (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExecuteBatchError)


class Player:
    """Clients of one server, a channel each.

    Args:
        target: the server's address.
        keys: whether the calls carry their keys.
        patience: seconds after which a call is taken to hang.
    """

    def __init__(self, target: str, *, keys: bool = True, patience: float = 30.0) -> None:
        self._target = target
        self._keys = keys
        self._patience = patience
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def play(self, case: Case) -> list[Outcome]:
        """Makes the calls of a case, and waits for their ends."""
        if not case.together:
            return [await self._call(call) for call in case.calls]
        return await asyncio.gather(*(self._call(call) for call in case.calls))

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels.values():
            await channel.close()

    def _channel(self, key: str) -> grpc.aio.Channel:
        if key not in self._channels:
            options = [
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
            ]
            self._channels[key] = grpc.aio.insecure_channel(self._target, options=options)
        return self._channels[key]

    async def _call(self, call: Call) -> Outcome:
        if call.headers is not None:
            return await asyncio.to_thread(_by_hand, self._target, call, self._keys)
        outcome = Outcome(call)
        metadata = call.metadata
        if self._keys and call.key:
            metadata = (("authorization", f"Bearer {call.key}"), *metadata)
        seconds = call.seconds
        if call.method == WATCH and seconds is None:
            seconds = WATCH_SECONDS
        rpc = self._channel(call.key).stream_stream(call.method)(timeout=seconds, metadata=metadata)

        conversing = asyncio.ensure_future(_converse(rpc, call, outcome))

        def cancel() -> None:
            if rpc.cancel():
                outcome.cancelled = True
                # A call that is cancelled before it has begun leaves those hanging who write to it.
                conversing.cancel()

        timer = None
        if call.cancel_seconds is not None:
            timer = asyncio.get_running_loop().call_later(call.cancel_seconds, cancel)
        try:
            async with asyncio.timeout(self._patience):
                await asyncio.wait({conversing})
                if conversing.cancelled():
                    outcome.code = grpc.StatusCode.CANCELLED
                    return outcome
                conversing.result()
                if call.reads is not None and len(outcome.messages) >= call.reads:
                    outcome.cancelled = rpc.cancel()
                outcome.code = await rpc.code()
                outcome.details = await rpc.details() or ""
                outcome.trailers = tuple(await rpc.trailing_metadata() or ())
                if outcome.details == _NOT_BEGUN:
                    outcome.code, outcome.cancelled = grpc.StatusCode.CANCELLED, True
        except TimeoutError:
            conversing.cancel()
            rpc.cancel()
        finally:
            if timer is not None:
                timer.cancel()
        return outcome


def _by_hand(target: str, call: Call, keys: bool) -> Outcome:
    """Makes a call by hand; a connection or stream that the server resets counts as cancelled."""
    assert call.headers is not None
    given = dict(call.headers)
    usual = {**dict(http2.CHAT_HEADERS), ":path": call.method}
    if keys and call.key:
        usual["authorization"] = f"Bearer {call.key}"
    # All that begins with a colon comes first.
    headers = [(name, given.get(name, value)) for name, value in usual.items()]
    headers += [(name, value) for name, value in call.headers if name not in usual]
    outcome = Outcome(call)
    try:
        said = http2.exchange(target, [(name, value.encode("latin-1")) for name, value in headers], call.body)
    except TimeoutError:
        return outcome
    except (ConnectionError, ProtocolError):
        said = {"reset": "connection"}
    if "grpc-status" not in said:
        outcome.code, outcome.cancelled = grpc.StatusCode.CANCELLED, True
        return outcome
    outcome.code = _CODES[said["grpc-status"]]
    outcome.details = said.get("grpc-message", "")
    return outcome


async def _converse(rpc: Any, call: Call, outcome: Outcome) -> None:
    """Sends and reads until the call has ended, or so much was read that the client has enough."""
    # The server may end a call before it has read everything; its status is what counts.
    with suppress(*_ENDED):
        for message in call.messages:
            await rpc.write(message)
        await rpc.done_writing()
    with suppress(*_ENDED):
        while (message := await rpc.read()) is not grpc.aio.EOF:
            outcome.messages.append(message)
            if call.reads is not None and len(outcome.messages) >= call.reads:
                return
