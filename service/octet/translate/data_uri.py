"""Pictures inside of a request as data: URIs (RFC 2397)."""

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from octet.errors import InvalidRequestError

SCHEME = "data:"


@dataclass(frozen=True, slots=True)
class DataUri:
    """What a data: URI holds; `media_type` is empty when it does not say."""

    media_type: str
    data: bytes


def is_data_uri(uri: str) -> bool:
    """Whether the URI holds its data itself."""
    return uri[: len(SCHEME)].lower() == SCHEME


def parse_data_uri(uri: str, *, max_bytes: int, field: str) -> DataUri:
    """Decodes ``data:[<media type>];base64,<data>``.

    Args:
        uri: one for which `is_data_uri` holds.
        max_bytes: most bytes of data; compared before they are decoded.
        field: path of the field that holds the URI, for errors.

    Raises:
        InvalidRequestError: at `field`, when it is malformed, not base64 or too large.
    """
    head, comma, body = uri[len(SCHEME) :].partition(",")
    media_type, _, encoding = head.rpartition(";")
    if not comma:
        raise InvalidRequestError(field, "has no comma between the media type and the data")
    if encoding.strip().lower() != "base64":
        raise InvalidRequestError(
            field, "is not base64; write data:image/png;base64,... with the type that fits"
        )
    encoded = unquote_to_bytes(body) if "%" in body else body.encode(errors="replace")
    # Four characters hold three bytes; up to two of the last four are padding.
    if len(encoded) // 4 * 3 - 2 > max_bytes:
        raise InvalidRequestError(field, f"holds more than the limit of {max_bytes} bytes")
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise InvalidRequestError(field, f"is not valid base64: {error}") from error
    return DataUri(media_type.strip(), data)
