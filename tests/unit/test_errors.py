import inspect
import re
import subprocess
import sys

import pytest

from octet import errors
from octet.errors import (
    ContextLengthError,
    EngineDeadError,
    InvalidRequestError,
    OctetError,
    OverloadedError,
    UnavailableError,
)

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, OctetError)]


def test_a_wrong_field_is_named_with_what_to_change() -> None:
    error = InvalidRequestError("sampling.n", "0 is not 1 to 16")
    assert (error.field, error.message) == ("sampling.n", "0 is not 1 to 16")
    assert str(error) == "sampling.n: 0 is not 1 to 16"


@pytest.mark.parametrize("error", CLASSES)
def test_each_has_a_reason_that_programs_can_read(error: type[OctetError]) -> None:
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,62}", error.reason)


def test_no_two_share_a_reason() -> None:
    # There are many reasons for having no room; each error of that kind is given its own.
    fixed = [error for error in CLASSES if error is not OverloadedError]
    assert len(fixed) > 5
    assert len({error.reason for error in fixed}) == len(fixed)


def test_kinds_of_errors() -> None:
    assert issubclass(ContextLengthError, InvalidRequestError)
    assert issubclass(EngineDeadError, UnavailableError)


def test_they_load_no_library() -> None:
    code = (
        "import octet.errors, sys; "
        "print([name for name in ('grpc', 'vllm', 'torch', 'google.protobuf') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert output.stdout.strip() == "[]"
