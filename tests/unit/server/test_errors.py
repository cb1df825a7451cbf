"""The map from domain errors to statuses."""

import inspect

import pytest
from google.rpc import code_pb2, error_details_pb2

from octet import errors
from octet.errors import OctetError
from octet.server.interceptors.errors import DOMAIN, MAX_MESSAGE_BYTES, to_status

CODES = {
    errors.InvalidRequestError: code_pb2.INVALID_ARGUMENT,
    errors.MalformedRequestError: code_pb2.INVALID_ARGUMENT,
    errors.ContextLengthError: code_pb2.INVALID_ARGUMENT,
    errors.ImageFetchError: code_pb2.INVALID_ARGUMENT,
    errors.MethodNotFoundError: code_pb2.UNIMPLEMENTED,
    errors.ServiceNotOfferedError: code_pb2.UNIMPLEMENTED,
    errors.ModelNotFoundError: code_pb2.NOT_FOUND,
    errors.AdapterNotFoundError: code_pb2.NOT_FOUND,
    errors.AdapterExistsError: code_pb2.ALREADY_EXISTS,
    errors.AdapterLimitError: code_pb2.FAILED_PRECONDITION,
    errors.DuplicateRequestError: code_pb2.ALREADY_EXISTS,
    errors.UnauthenticatedError: code_pb2.UNAUTHENTICATED,
    errors.OverloadedError: code_pb2.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: code_pb2.DEADLINE_EXCEEDED,
    errors.SlowReaderError: code_pb2.ABORTED,
    errors.UnavailableError: code_pb2.UNAVAILABLE,
    errors.EngineDeadError: code_pb2.UNAVAILABLE,
    errors.StartupError: code_pb2.INTERNAL,
    errors.OctetError: code_pb2.INTERNAL,
}


def test_every_error_is_listed_here() -> None:
    defined = {
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, OctetError)
    }
    assert defined == CODES.keys()


@pytest.mark.parametrize("kind", CODES)
def test_codes_and_reasons(kind: type[OctetError]) -> None:
    if issubclass(kind, errors.InvalidRequestError):
        error: OctetError = kind("model", "is wrong")
    elif kind is errors.OverloadedError:
        error = errors.OverloadedError(kind.reason, "is wrong", retry_seconds=1)
    else:
        error = kind("is wrong")
    status = to_status(error)
    assert status.code == CODES[kind]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (kind.reason, DOMAIN)


@pytest.mark.parametrize("half", ["\ud800", "\udfff" * MAX_MESSAGE_BYTES])
def test_half_a_character_is_escaped(half: str) -> None:
    """JSON can hold it, and so can what is said of it; a message of a status cannot."""
    status = to_status(errors.InvalidRequestError(f"a[{half}]", half))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert rf"\u{ord(half[0]):x}" in status.message
    assert len(status.message) <= MAX_MESSAGE_BYTES


def test_the_field_is_named() -> None:
    status = to_status(errors.InvalidRequestError("messages[1].role", "is unknown"))
    bad_request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad_request)
    [violation] = bad_request.field_violations
    assert (violation.field, violation.description) == ("messages[1].role", "is unknown")
    assert status.message == "messages[1].role: is unknown"


def test_no_room_says_when_to_come_again_and_whose_limit_it_is() -> None:
    error = errors.OverloadedError(
        "KEY_LIMIT_REACHED",
        "too many",
        retry_seconds=1.25,
        quota=errors.Quota("key:team-a", "4 requests at the same time"),
    )
    info, retry, quota = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.QuotaFailure(),
    )
    for packed, detail in zip(to_status(error).details, (info, retry, quota), strict=True):
        assert packed.Unpack(detail)
    assert info.reason == "KEY_LIMIT_REACHED"
    assert retry.retry_delay.ToMilliseconds() == 1250
    [violation] = quota.violations
    assert (violation.subject, violation.description) == ("key:team-a", "4 requests at the same time")


@pytest.mark.parametrize("character", ["x", "ä", "漢", "🙂"])
def test_trailers_stay_small_whatever_the_message(character: str) -> None:
    status = to_status(errors.InvalidRequestError("field", character * 100_000))
    assert len(status.message.encode()) <= MAX_MESSAGE_BYTES
    assert status.message.endswith("...")
    percent_encoded, base64 = 3 * len(status.message.encode()), 4 * status.ByteSize() / 3
    assert percent_encoded + base64 < 8000
