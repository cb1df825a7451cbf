"""Encoded pictures to decoded ones."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from octet.errors import InvalidRequestError
from octet.pictures.decode import DecodeError, decode_here
from octet.pictures.header import MAX_SIDE, Header, NotAPictureError, Source, read_header
from octet.pictures.plan import ImageView, Plan, make_plan

Decode = Callable[[bytes, Plan], Image.Image]
"""Decodes a file as planned: RGB, upright. Raises DecodeError where the file is to blame."""

_ALIASES = {"image/jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large pictures may be.

    Attributes:
        max_bytes: of an encoded file.
        max_pixels: width times height, compared before the picture is decoded.
        max_memory: bytes that decoding the pictures of one request may take; None for any number.
    """

    max_bytes: int
    max_pixels: int
    max_memory: int | None = None


def decode_image(
    data: bytes,
    *,
    mime_type: str,
    limits: ImageLimits,
    field: str,
    source: str = "data",
    source_type: str = "",
    view: ImageView | None = None,
    pan_and_scan: bool | None = None,
    decode: Decode = decode_here,
) -> Image.Image:
    """Decodes a PNG, JPEG, WebP or GIF file (its first frame), recognised by its content.

    Args:
        data: the encoded file.
        mime_type: what the client says that it is; empty when it does not say.
        limits: what is refused before it is decoded.
        field: path of the Image message, for errors.
        source: the message's field out of which the file came.
        source_type: what that field says that the file is; empty when it does not say.
        view: what the model sees of it; what is far more than that is not kept.
        pan_and_scan: whether the request asks for crops; None where it does not say.
        decode: decodes it.

    Returns:
        The picture: mode RGB, upright (EXIF orientation applied), on white where it was transparent.

    Raises:
        InvalidRequestError: at that field or at `field`.mime_type.
    """
    where = f"{field}.{source}"
    header = check_image(data, limits=limits, where=where)
    actual = header.format.value
    _check_media_type(mime_type, actual, f"{field}.mime_type")
    _check_media_type(source_type, actual, where)
    try:
        return decode(data, make_plan(header, view, pan_and_scan=pan_and_scan))
    except DecodeError as error:
        raise InvalidRequestError(where, str(error)) from error


def check_image(file: Source, *, limits: ImageLimits, where: str) -> Header:
    """Checks what can be known about a picture without decoding it.

    Args:
        file: the encoded file.
        limits: how large it may be.
        where: path of the field that it came from, for errors.

    Returns:
        What it says of itself.

    Raises:
        InvalidRequestError: at `where`.
    """
    if not len(file):
        raise InvalidRequestError(where, "is empty; put the bytes of the picture file here")
    if len(file) > limits.max_bytes:
        raise InvalidRequestError(where, f"has {len(file)} bytes, more than the limit of {limits.max_bytes}")
    try:
        header = read_header(file)
    except NotAPictureError as error:
        raise InvalidRequestError(where, "is not a PNG, JPEG, WebP or GIF file") from error
    _check_size(header, limits, where)
    return header


def _check_media_type(claimed: str, actual: str, where: str) -> None:
    if not claimed:
        return
    name = claimed.partition(";")[0].strip().lower()
    if _ALIASES.get(name, name) != actual:
        raise InvalidRequestError(
            where,
            f"says {claimed[:64]!r}, but the data is {actual}; correct it or leave it unset",
        )


def _check_size(header: Header, limits: ImageLimits, where: str) -> None:
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise InvalidRequestError(where, "is a picture without pixels")
    if header.pixels > limits.max_pixels:
        raise InvalidRequestError(
            where,
            f"has {width} x {height} pixels, more than the limit of {limits.max_pixels}; make it smaller",
        )
    if max(width, height) > MAX_SIDE:
        raise InvalidRequestError(
            where, f"has {width} x {height} pixels; neither side may be longer than {MAX_SIDE}"
        )
