"""What a failed call tells."""

from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is wrong.

    Attributes:
        field: its path, such as "messages[0].parts[1].image.data".
        description: what to change.
    """

    field: str
    description: str


class OctetRpcError(Exception):
    """A call failed.

    Attributes:
        code: the gRPC status code.
        message: one sentence by the server, or by gRPC when no server was reached.
        reason: machine-readable cause, such as "MODEL_NOT_FOUND"; empty when the server gave none.
        field_violations: the request's wrong fields; set with INVALID_ARGUMENT.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        field_violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.field_violations = field_violations


def to_octet_error(error: grpc.RpcError) -> OctetRpcError:
    """What gRPC raised, with the details that the server attached."""
    reason = ""
    violations: list[FieldViolation] = []
    for detail in _details(error):
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad_request):
            violations += [
                FieldViolation(violation.field, violation.description)
                for violation in bad_request.field_violations
            ]
    return OctetRpcError(error.code(), error.details() or "", reason, tuple(violations))


def _details(error: grpc.RpcError) -> list[status_pb2.Status]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the status: not this server's
        return []
    return [] if status is None else list(status.details)
