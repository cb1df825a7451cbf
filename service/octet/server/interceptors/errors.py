"""The one place that turns errors into gRPC statuses with google.rpc details."""

import asyncio
import logging
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from octet.errors import (
    AdapterExistsError,
    AdapterLimitError,
    AdapterNotFoundError,
    DeadlineExceededError,
    DuplicateRequestError,
    InvalidRequestError,
    MethodNotFoundError,
    ModelNotFoundError,
    OctetError,
    OverloadedError,
    ServiceNotOfferedError,
    SlowReaderError,
    UnauthenticatedError,
    UnavailableError,
)
from octet.rpc import call
from octet.rpc.running import CancelledByCallerError
from octet.server.grpc_faults import NotSentError
from octet.server.interceptors.handlers import AroundInterceptor, Context, Proceed

logger = logging.getLogger("octet")

DOMAIN = "octet.v1"
"""google.rpc.ErrorInfo.domain of every error."""

MAX_MESSAGE_BYTES = 1000
"""Longer messages are cut: trailers must stay below the 8 KiB that clients accept."""

REQUEST_ID_HEADER = "x-request-id"

PUSHBACK_HEADER = "grpc-retry-pushback-ms"
"""gRPC's own: when a client may try again; -1 forbids it."""

_CODES: dict[type[OctetError], int] = {
    InvalidRequestError: code_pb2.INVALID_ARGUMENT,
    UnauthenticatedError: code_pb2.UNAUTHENTICATED,
    MethodNotFoundError: code_pb2.UNIMPLEMENTED,
    ServiceNotOfferedError: code_pb2.UNIMPLEMENTED,
    ModelNotFoundError: code_pb2.NOT_FOUND,
    AdapterNotFoundError: code_pb2.NOT_FOUND,
    AdapterExistsError: code_pb2.ALREADY_EXISTS,
    AdapterLimitError: code_pb2.FAILED_PRECONDITION,
    DuplicateRequestError: code_pb2.ALREADY_EXISTS,
    DeadlineExceededError: code_pb2.DEADLINE_EXCEEDED,
    SlowReaderError: code_pb2.ABORTED,
    OverloadedError: code_pb2.RESOURCE_EXHAUSTED,
    UnavailableError: code_pb2.UNAVAILABLE,
    CancelledByCallerError: code_pb2.CANCELLED,
    OctetError: code_pb2.INTERNAL,
}


class ErrorInterceptor(AroundInterceptor):
    """Ends a call that raised with the error's status; the unexpected becomes INTERNAL and is logged."""

    async def around(
        self, details: grpc.HandlerCallDetails, request: Any, context: Context, proceed: Proceed
    ) -> Any:
        """Turns what the call raises into its status."""
        try:
            return await proceed()
        except grpc.aio.AbortError:
            raise
        except NotSentError:
            # Nothing can be sent any more, and gRPC has not told yet why: the client is gone.
            raise asyncio.CancelledError from None
        except OctetError as raised:
            error = raised
        except Exception:
            logger.exception("unexpected error")
            error = OctetError("an error inside the server; its log has more under this request id")
        status = rpc_status.to_status(to_status(error))
        # Aborting with trailers drops those that were set before.
        trailers = (*context.trailing_metadata(), *status.trailing_metadata, *_trailers(error))
        return await context.abort(status.code, status.details, trailers)


def _trailers(error: OctetError) -> tuple[tuple[str, str], ...]:
    """What goes into the trailers beside the status: the request's id, and when to try again.

    The id is sent here as well, because a call that is refused before any work gets no initial metadata: gRPC
    clients and proxies try a call again only when its status is the first thing that they hear.
    """
    trailers = ((REQUEST_ID_HEADER, call.request_id.get()),)
    if not isinstance(error, OverloadedError):
        return trailers
    pushback = round(1e3 * error.retry_seconds) if error.retryable else -1
    return (*trailers, (PUSHBACK_HEADER, str(pushback)))


def to_status(error: OctetError) -> status_pb2.Status:
    """The status of a domain error: code, message, and its details.

    They are ErrorInfo, BadRequest when a field is to blame, RetryInfo and QuotaFailure when there is no room.
    """
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    status = status_pb2.Status(code=code, message=_cut(str(error)))
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(error.field), description=_cut(error.message), reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, OverloadedError):
        delay = Duration()
        delay.FromMilliseconds(round(1e3 * error.retry_seconds))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if error.quota is not None:
            exceeded = error_details_pb2.QuotaFailure.Violation(
                subject=error.quota.subject, description=error.quota.description
            )
            details.append(error_details_pb2.QuotaFailure(violations=[exceeded]))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _cut(text: str) -> str:
    # What was sent as JSON may hold half a character (a lone surrogate), and no message can.
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "..."
