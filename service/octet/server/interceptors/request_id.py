"""The request id of each call: found or made, echoed, and in every log line."""

import uuid
from typing import Any

import grpc

from octet.errors import InvalidRequestError
from octet.rpc import call
from octet.server.interceptors.errors import REQUEST_ID_HEADER
from octet.server.interceptors.handlers import AroundInterceptor, Context, Proceed
from octet.translate.request import check_request_id

_OWN_PREFIXES = ("/octet.v1.", "/vllm.grpc.engine.", "/inference.")


class RequestIdInterceptor(AroundInterceptor):
    """Gives each call an id: the request's own, that of its `x-request-id` metadata, or a new one.

    The id goes back in the initial metadata `x-request-id`, and into every line of the log. The services in
    `octet.rpc` send their calls' initial metadata when they let them in (`octet.rpc.call.accept`), for what
    is refused before must not have any.
    """

    async def around(
        self, details: grpc.HandlerCallDetails, request: Any, context: Context, proceed: Proceed
    ) -> Any:
        """Chooses the id, and sends it as soon as that is allowed."""
        from_metadata = dict(details.invocation_metadata).get(REQUEST_ID_HEADER)
        request_id = _choose(getattr(request, "request_id", ""), from_metadata)
        call.request_id.set(request_id)
        headers = InitialMetadata(context, request_id)
        call.initial_metadata.set(headers)
        if not details.method.startswith(_OWN_PREFIXES):
            await headers.send()
        answered = await proceed()
        await headers.send()
        return answered


class InitialMetadata:
    """A call's initial metadata, which is sent once."""

    def __init__(self, context: Context, request_id: str) -> None:
        self._context = context
        self._request_id = request_id
        self._sent = False

    async def send(self) -> None:
        """Sends it unless that is done."""
        if not self._sent:
            self._sent = True
            await self._context.send_initial_metadata([(REQUEST_ID_HEADER, self._request_id)])


def _choose(*candidates: str | bytes | None) -> str:
    """The first candidate that can be an id, or a new id. Ill-formed ones are refused later, by field."""
    for candidate in candidates:
        if isinstance(candidate, str) and candidate:
            try:
                check_request_id(candidate)
            except InvalidRequestError:
                continue
            return candidate
    return uuid.uuid4().hex
