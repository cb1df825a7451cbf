"""What keeps a checkpoint from being quantized."""

from octet.errors import OctetError


class QuantizeError(OctetError):
    """The checkpoint cannot be quantized. The message is one line that names the file, and the tensor if
    there is one, and says what to do where that is not plain.
    """

    reason = "QUANTIZE"


def reason_of(error: OSError) -> str:
    """The operating system's words for `error`, without the number and the path."""
    return error.strerror or str(error)
