"""A server of OpenAI's API: streamed chat completions over HTTP."""

import base64
import json
import ssl
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from octet.bench.serving import content
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.target import (
    CUT_OFF,
    HIDDEN,
    LATE,
    SHOWN,
    UNCOUNTED,
    UNREACHABLE,
    Failure,
    Form,
    Piece,
    Usage,
)

# A line of a stream, with all that servers put into it.
_LINE_BYTES = 1 << 20
_MESSAGE_CHARACTERS = 200


class OpenAiTarget:
    """A server of OpenAI's API.

    Args:
        url: up to and with /v1.
        api_key: the server's key.
        tls: for an https: URL, how to encrypt; None: trusting the usual authorities.
        model: a served model's name; empty for the server's first.
        timeout: seconds until a request is given up.
    """

    kinds = frozenset(Kind)
    takes_tokens = False

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        tls: ssl.SSLContext | None = None,
        model: str = "",
        timeout: float,
    ) -> None:
        self._url = url.rstrip("/")
        self.title = f"OpenAI's API at {self._url}"
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._tls = tls
        self._model = model
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Connects, and asks for the models where none is named.

        Raises:
            Failure: nobody answers, or serves no model.
        """
        if self._session is None:
            # As many connections as there are requests: HTTP/1.1 has one answer at a time on each.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls or True),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                read_bufsize=_LINE_BYTES,
            )
        if not self._model:
            self._model = await self._first_model(self._session)

    async def _first_model(self, session: aiohttp.ClientSession) -> str:
        try:
            async with session.get(f"{self._url}/models") as response:
                if response.status != 200:
                    raise await _refusal(response)
                listed = json.loads(await response.text())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _failure_of(error) from None
        try:
            return str(listed["data"][0]["id"])
        except (LookupError, TypeError):
            raise Failure("NOT_FOUND", f"{self._url}/models names no model; name one with --model") from None

    def prepare(self, order: Order, form: Form) -> bytes:
        """The body for an order."""
        text, pictures = form.text_and_pictures(order)
        parts: list[dict[str, Any]] = [
            {
                "type": "image_url",
                "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"},
            }
            for data in pictures
        ]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [
                {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}
            ],
            "max_tokens": order.answer_tokens,
            "temperature": form.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if order.kind is Kind.TOOLS:
            body |= {"tools": [{"type": "function", "function": content.TOOL}], "tool_choice": "required"}
        elif not form.may_end:
            body["ignore_eos"] = True
        return json.dumps(body).encode()

    async def stream(self, request: bytes) -> AsyncGenerator[Piece | Usage, None]:
        """Sends a body, and gives what comes."""
        assert self._session is not None, "open() comes first"
        usage = None
        try:
            async with self._session.post(
                f"{self._url}/chat/completions", data=request, headers={"Content-Type": "application/json"}
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                async for event in _events(response):
                    usage = event.get("usage") or usage
                    if (piece := _piece(event)) is not None:
                        yield piece
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _failure_of(error) from None
        if usage is None:
            raise Failure(UNCOUNTED, "the stream ended without its usage")
        yield Usage(usage["prompt_tokens"], usage["completion_tokens"])

    async def close(self) -> None:
        """Ends every connection."""
        if self._session is not None:
            await self._session.close()


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream, up to its `[DONE]`.

    Raises:
        Failure: the stream ended before, or brought an error.
    """
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if not isinstance(event, dict):
            raise Failure(CUT_OFF, f"the stream holds {event!r}")
        if event.get("error"):
            raise Failure("ERROR", str(event["error"])[:_MESSAGE_CHARACTERS])
        yield event
    raise Failure(CUT_OFF, "the stream ended before its [DONE]")


def _piece(event: dict[str, Any]) -> Piece | None:
    """What an event brings; None for one without tokens, such as the first, which only names a role."""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if (
            delta.get("content")
            or delta.get("tool_calls")
            or delta.get("reasoning")
            or delta.get("reasoning_content")
        ):
            return SHOWN
        if "role" not in delta and choice.get("finish_reason") is None:
            return HIDDEN
    return None


async def _refusal(response: aiohttp.ClientResponse) -> Failure:
    return Failure(f"HTTP {response.status}", (await response.text())[:_MESSAGE_CHARACTERS])


def _failure_of(error: Exception) -> Failure:
    if isinstance(error, TimeoutError):
        return Failure(LATE, "the request took too long")
    if isinstance(error, aiohttp.ClientConnectionError):
        return Failure(UNREACHABLE, str(error))
    return Failure(CUT_OFF, str(error))
