"""Encoded pictures to decoded ones."""

import re
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

# Imported for their registration: Image.open would otherwise load them lazily, in several threads at once.
from PIL import (
    GifImagePlugin,  # noqa: F401
    Image,
    ImageChops,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from octet.errors import InvalidRequestError

_MEDIA_TYPES = {
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG file with further pictures behind the first, as some cameras write
    "PNG": "image/png",
    "WEBP": "image/webp",
}
_ALIASES = {"image/jpg": "image/jpeg"}
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")

# A progressive JPEG file has about ten scans. Each one costs a pass over the whole picture, however few bytes
# it has: without a bound, a file of a few MiB keeps the decoder busy for hours.
_MAX_JPEG_SCANS = 100
# The next marker that begins a segment or ends the picture: FF 00 is a stuffed byte, FF FF is fill, and FF 01
# and FF D0 to FF D7 stand alone.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_JPEG_SOS = 0xDA
_JPEG_EOI = 0xD9


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large a picture may be.

    Attributes:
        max_bytes: of the encoded file.
        max_pixels: width times height, compared before the picture is decoded.
    """

    max_bytes: int
    max_pixels: int


def decode_image(
    data: bytes,
    *,
    mime_type: str,
    limits: ImageLimits,
    field: str,
    source: str = "data",
    source_type: str = "",
) -> Image.Image:
    """Decodes a PNG, JPEG, WebP or GIF file (its first frame), recognised by its content.

    Args:
        data: the encoded file.
        mime_type: what the client says that it is; empty when it does not say.
        limits: what is refused before it is decoded.
        field: path of the Image message, for errors.
        source: the message's field out of which the file came.
        source_type: what that field says that the file is; empty when it does not say.

    Returns:
        The picture: mode RGB, upright (EXIF orientation applied), on white where it was transparent, loaded.

    Raises:
        InvalidRequestError: at that field or at `field`.mime_type.
    """
    where = f"{field}.{source}"
    with _open_checked(data, limits, where) as image:
        actual = _MEDIA_TYPES[image.format or ""]
        _check_media_type(mime_type, actual, f"{field}.mime_type")
        _check_media_type(source_type, actual, where)
        try:
            image.load()
            _set_upright(image)
            return _to_rgb(image)
        except Exception as error:
            # Pillow's decoders raise nearly anything on a damaged file.
            raise InvalidRequestError(
                where, f"cannot be decoded, the file is damaged or cut short ({error})"
            ) from error


def check_image(data: bytes, *, limits: ImageLimits, where: str) -> str:
    """Checks what can be known about a picture without decoding it.

    Args:
        data: the encoded file.
        limits: how large it may be.
        where: path of the field that it came from, for errors.

    Returns:
        The media type that it is of, by its content.

    Raises:
        InvalidRequestError: at `where`.
    """
    with _open_checked(data, limits, where) as image:
        return _MEDIA_TYPES[image.format or ""]


def _open_checked(data: bytes, limits: ImageLimits, where: str) -> Image.Image:
    """The picture, not decoded yet."""
    if not data:
        raise InvalidRequestError(where, "is empty; put the bytes of the picture file here")
    if len(data) > limits.max_bytes:
        raise InvalidRequestError(where, f"has {len(data)} bytes, more than the limit of {limits.max_bytes}")
    image = _open(data, limits, where)
    try:
        _check_size(image, limits, where)
        if image.format in ("JPEG", "MPO") and _has_too_many_scans(data):
            raise InvalidRequestError(
                where, f"is a JPEG file of more than {_MAX_JPEG_SCANS} scans; encode it again"
            )
    except InvalidRequestError:
        image.close()
        raise
    return image


def _open(data: bytes, limits: ImageLimits, where: str) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidRequestError(where, f"has more than the limit of {limits.max_pixels} pixels") from error
    except Exception as error:
        raise InvalidRequestError(where, "is not a PNG, JPEG, WebP or GIF file") from error


def _check_media_type(claimed: str, actual: str, where: str) -> None:
    if not claimed:
        return
    name = claimed.partition(";")[0].strip().lower()
    if _ALIASES.get(name, name) != actual:
        raise InvalidRequestError(
            where,
            f"says {claimed[:64]!r}, but the data is {actual}; correct it or leave it unset",
        )


def _check_size(image: Image.Image, limits: ImageLimits, where: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise InvalidRequestError(where, "is a picture without pixels")
    if width * height > limits.max_pixels:
        raise InvalidRequestError(
            where,
            f"has {width} x {height} pixels, more than the limit of {limits.max_pixels}; make it smaller",
        )


def _has_too_many_scans(data: bytes) -> bool:
    """Whether the first picture of a JPEG file has more scans than an encoder would write."""
    scans = 0
    position = 2
    while (marker := _JPEG_MARKER.search(data, position)) and marker[1][0] != _JPEG_EOI:
        scans += marker[1][0] == _JPEG_SOS
        if scans > _MAX_JPEG_SCANS:
            return True
        # A segment's length counts itself. Skipping the segment keeps what looks like markers in it out.
        position = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
    return False


def _set_upright(image: Image.Image) -> None:
    # Damaged EXIF data says nothing about the pixels, which are turned before the data is rewritten.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scales 16-bit grayscale, which `convert` alone would clip at 255."""
    wide = image.convert("I")
    gray = wide.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        # One of 65536 values is transparent; scaled to 8 bits it would take 256 others with it.
        above = wide.point(lambda value: value * 1 - transparent).convert("L")
        below = wide.point(lambda value: value * -1 + transparent).convert("L")
        gray.putalpha(ImageChops.add(above, below).point(lambda difference: 255 if difference else 0))
    return gray
