"""Writing to clients that may not read."""

import asyncio
from typing import Any, TypeAlias

import grpc

from octet.errors import SlowReaderError

# Quoted: the class takes type arguments in its stub only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


async def write_within(seconds: float, context: Context, message: Any) -> None:
    """Writes `message` and returns when the transport has room again.

    Raises:
        SlowReaderError: when that takes longer; all that the answer holds is to be let go then.
    """
    try:
        async with asyncio.timeout(seconds):
            await context.write(message)
    except TimeoutError:
        raise SlowReaderError(f"nothing of the answer was taken for {seconds:g} seconds") from None
