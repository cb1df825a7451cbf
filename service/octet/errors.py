"""Errors of the domain.

The one place that turns them into gRPC statuses is `octet.server.interceptors.errors`.
"""

from dataclasses import dataclass


class OctetError(Exception):
    """Base of all errors that Octet raises on purpose.

    Attributes:
        reason: machine-readable UPPER_SNAKE_CASE cause, sent as google.rpc.ErrorInfo.reason.
    """

    reason = "INTERNAL"


class StartupError(OctetError):
    """The server cannot start. The message is one line that says what to do; the process exits non-zero."""

    reason = "STARTUP"


class InvalidRequestError(OctetError):
    """A field of a request is wrong.

    Attributes:
        field: path of the field as in the proto, such as ``messages[2].parts[0].image.data``; empty where
            it is the request as a whole.
        message: one sentence that tells the client's author what to change.
    """

    reason = "INVALID_FIELD"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class MalformedRequestError(InvalidRequestError):
    """What the call carries is no request: not one message, or bytes that are none of the method's."""

    reason = "MALFORMED_REQUEST"


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit into the model's context window."""

    reason = "CONTEXT_LENGTH_EXCEEDED"


class ImageFetchError(InvalidRequestError):
    """A picture that the request names by URI cannot be had from where it is."""

    reason = "IMAGE_FETCH_FAILED"


class ModelNotFoundError(OctetError):
    """The request names a model that is not served here."""

    reason = "MODEL_NOT_FOUND"


class AdapterNotFoundError(OctetError):
    """The request names a LoRA adapter that is not loaded here."""

    reason = "ADAPTER_NOT_FOUND"


class AdapterExistsError(OctetError):
    """Another LoRA adapter has the name."""

    reason = "ADAPTER_NAME_IN_USE"


class AdapterLimitError(OctetError):
    """As many LoRA adapters are loaded as the server holds."""

    reason = "ADAPTER_LIMIT_REACHED"


class MethodNotFoundError(OctetError):
    """The call is of a method that the server does not have."""

    reason = "METHOD_NOT_FOUND"


class ServiceNotOfferedError(OctetError):
    """The method is the server's, but its model is not for that."""

    reason = "SERVICE_NOT_OFFERED"


class DuplicateRequestError(OctetError):
    """The request's id belongs to a request that is still running."""

    reason = "REQUEST_ID_IN_USE"


class UnauthenticatedError(OctetError):
    """The call carries no key, or a wrong one."""

    reason = "API_KEY_INVALID"


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of somebody's own that is reached.

    Attributes:
        subject: whose it is, such as "key:team-a".
        description: what it is.
    """

    subject: str
    description: str


class OverloadedError(OctetError):
    """There is no room for the call now; nothing has been done for it.

    Attributes:
        reason: which limit was reached.
        retry_seconds: when it pays to try again.
        retryable: whether a client's gRPC should try again by itself.
        quota: the caller's own limit, when it was that.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retry_seconds: float,
        retryable: bool = True,
        quota: Quota | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_seconds = retry_seconds
        self.retryable = retryable
        self.quota = quota


class DeadlineExceededError(OctetError):
    """The call's deadline passed before the answer was complete; the engine's work has been stopped."""

    reason = "DEADLINE_EXCEEDED"


class SlowReaderError(OctetError):
    """The client has left a part of its streamed answer untaken for too long."""

    reason = "CLIENT_TOO_SLOW"


class UnavailableError(OctetError):
    """The server is draining or its engine is gone; another replica can answer."""

    reason = "UNAVAILABLE"


class EngineDeadError(UnavailableError):
    """The engine has died and takes no more work."""

    reason = "ENGINE_DEAD"
