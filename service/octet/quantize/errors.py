"""What keeps a checkpoint from being quantized."""

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
