"""What keeps a checkpoint from being quantized."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from octet.errors import OctetError


class QuantizeError(OctetError):
    """The checkpoint cannot be quantized. The message is one line that names the file, and the tensor if
    there is one, and says what to do where that is not plain.
    """

    reason = "QUANTIZE"


class UnusableWeightError(QuantizeError):
    """A weight holds what no scale can be made of, so that no later run can go on with this one's work."""


def reason_of(error: OSError) -> str:
    """The operating system's words for `error`, without the number and the path."""
    return error.strerror or str(error)


@contextmanager
def saying(path: Path, what: str) -> Iterator[None]:
    """Turns what the operating system says of a file into a QuantizeError.

    Args:
        path: the file, where the error does not name another.
        what: what cannot be done with it, such as "cannot be written".
    """
    try:
        yield
    except OSError as error:
        raise QuantizeError(f"{error.filename or path} {what}: {reason_of(error)}") from error
