"""The process that sends a case's calls, with less priority than the server's, as if it were elsewhere."""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from typing import Any

import grpc

from bench.neighbours.calls import STREAM, Call
from bench.neighbours.cases import cases

KEY = "sender"
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    # What is refused is not to come again by itself.
    ("grpc.enable_retries", 0),
]
_CONNECTIONS = 16
# Whoever refuses is asked again, but not without end within a moment.
_AFTER_REFUSAL_SECONDS = 0.05


def send(target: str, name: str, window: int, seconds: float) -> None:
    """Makes the calls, waits for a line, sends them, and prints how many ended in which way."""
    os.nice(19)
    case = cases()[name]
    calls = case.make(window)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(_send(target, calls, seconds, again=case.again))))


async def _send(target: str, calls: list[Call], seconds: float, *, again: bool) -> Counter[str]:
    channels = [
        grpc.aio.insecure_channel(target, options=_OPTIONS) for _ in range(min(len(calls), _CONNECTIONS))
    ]
    end = time.monotonic() + seconds
    ended: Counter[str] = Counter()

    async def one(i: int, call: Call) -> None:
        while True:
            code = await _call(channels[i % len(channels)], call, end)
            ended[code] += 1
            if not again or time.monotonic() > end:
                return
            if code == "RESOURCE_EXHAUSTED":
                await asyncio.sleep(_AFTER_REFUSAL_SECONDS)

    await asyncio.gather(*(one(i, call) for i, call in enumerate(calls)))
    for channel in channels:
        await channel.close()
    return ended


async def _call(channel: grpc.aio.Channel, call: Call, end: float) -> str:
    """How a call ended. What runs when the case ends is given up."""
    left = end - time.monotonic()
    metadata = (("authorization", f"Bearer {KEY}"),)
    method: Any = (channel.unary_stream if call.method == STREAM else channel.unary_unary)(call.method)
    sent = method(call.data, metadata=metadata)
    try:
        if call.left == "unread":
            await asyncio.sleep(left)
        elif call.left == "cancelled":
            await asyncio.sleep(0)
        else:
            await asyncio.wait_for(_read(sent, call), max(left, 0.0) if call.method == STREAM else None)
            return "OK"
    except grpc.aio.AioRpcError as error:
        return error.code().name
    except TimeoutError:
        pass
    sent.cancel()
    return "given up"


async def _read(sent: Any, call: Call) -> None:
    if call.method == STREAM:
        async for _ in sent:
            pass
    else:
        await sent
