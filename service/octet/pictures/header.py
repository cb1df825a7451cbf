"""What the beginning of a picture file says: its format, its size, and what decoding it will take.

Nothing is decompressed here, and only a bounded number of steps is made, however long the file is.
"""

import base64
import binascii
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

MAX_SIDE = 65_535
"""Longest side of a picture, in pixels. JPEG, GIF and WebP files cannot hold a longer one; a PNG file of 64
million rows of one pixel would keep its decoder busy with rows, not with pixels."""

_MAX_STEPS = 4_000
"""Segments, chunks or blocks that are looked at before the picture itself; 300 are many."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bytes of a pixel in Pillow's memory, by the colour type and whether samples have 16 bits. Colours of 16 bits
# may be read twice, see octet.pictures.decode.
_PNG_PIXEL = {
    (0, False): 1,
    (0, True): 2,
    (2, False): 4,
    (2, True): 8,
    (3, False): 1,
    (4, False): 4,
    (4, True): 4,
    (6, False): 4,
    (6, True): 4,
}
_WORST_PIXEL = 8

_JPEG_SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_JPEG_SOS = 0xDA
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_SCALES = (8, 4, 2)


class NotAPictureError(ValueError):
    """The file is of no format that is taken, or so damaged that it cannot be told."""


class Source(Protocol):
    """A file that can be read in pieces."""

    def __len__(self) -> int:
        """Its bytes."""
        ...

    def __getitem__(self, piece: slice) -> bytes:
        """Some of them; fewer at the end."""
        ...


class Base64Source:
    """A file in base64, without white space, of which only the pieces that are asked for are decoded."""

    def __init__(self, text: str) -> None:
        self._text = text
        padding = len(text[-2:]) - len(text[-2:].rstrip("="))
        self._size = len(text) // 4 * 3 - padding

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, piece: slice) -> bytes:
        """The bytes from `piece.start` to `piece.stop`.

        Raises:
            NotAPictureError: it is not base64 there.
        """
        start, stop = piece.start or 0, min(self._size if piece.stop is None else piece.stop, self._size)
        if stop <= start:
            return b""
        first = start // 3
        try:
            decoded = base64.b64decode(self._text[first * 4 : -(-stop // 3) * 4], validate=True)
        except (binascii.Error, ValueError) as error:
            raise NotAPictureError("is not base64") from error
        return decoded[start - first * 3 : stop - first * 3]


class Format(Enum):
    """The formats that are taken, by their media types."""

    PNG = "image/png"
    JPEG = "image/jpeg"
    WEBP = "image/webp"
    GIF = "image/gif"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself.

    Attributes:
        format: its format.
        width: of the picture, or of the canvas of an animation, in pixels.
        height: likewise.
        file_bytes: length of the file.
        full: bytes that decoding holds for each pixel, however small the result is.
        output: bytes a pixel of what the decoder hands over, at the size that it was asked for.
        scales: by which the decoder can divide both sides by itself, largest first; None for any.
    """

    format: Format
    width: int
    height: int
    file_bytes: int
    full: float
    output: int = 0
    scales: tuple[int, ...] | None = ()

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def read_header(file: Source) -> Header:
    """Reads the header of a PNG, JPEG, WebP or GIF file.

    Raises:
        NotAPictureError: it is none of these.
    """
    magic = file[0:12]
    try:
        if magic[:8] == _PNG_SIGNATURE:
            return _png(file)
        if magic[:3] == b"\xff\xd8\xff":
            return _jpeg(file)
        if magic[:4] == b"RIFF" and magic[8:12] == b"WEBP":
            return _webp(file)
        if magic[:6] in (b"GIF87a", b"GIF89a"):
            return _gif(file)
    except (struct.error, IndexError) as error:
        raise NotAPictureError("is cut short") from error
    raise NotAPictureError("is not a PNG, JPEG, WebP or GIF file")


def _png(file: Source) -> Header:
    length, name, width, height, depth, color = struct.unpack(">I4s2I2B", file[8:26])
    if name != b"IHDR" or length != 13:
        raise NotAPictureError("does not begin with its header")
    return Header(Format.PNG, width, height, len(file), _PNG_PIXEL.get((color, depth == 16), _WORST_PIXEL))


def _jpeg(file: Source) -> Header:
    frame: tuple[int, int, int, int, float] | None = None
    position = 2
    for _ in range(_MAX_STEPS):
        lead, marker = struct.unpack("2B", file[position : position + 2])
        if lead != 0xFF:
            raise NotAPictureError("has something else than a segment where one should begin")
        if marker == 0xFF:
            position += 1
            continue
        position += 2
        if marker in _JPEG_ALONE:
            continue
        (length,) = struct.unpack(">H", file[position : position + 2])
        if marker in _JPEG_SOF:
            frame = _jpeg_frame(marker, file[position + 2 : position + length])
        elif marker == _JPEG_SOS:
            if frame is None:
                break
            return _jpeg_header(file, *frame, in_scan=file[position + 2 : position + 3][0])
        position += max(2, length)
    raise NotAPictureError("has no picture, or too much before it")


def _jpeg_frame(marker: int, body: bytes) -> tuple[int, int, int, int, float]:
    """The marker, width, height, number of components, and samples a pixel of all components together."""
    _, height, width, components = struct.unpack(">B2HB", body[:6])
    factors = [(body[i] >> 4, body[i] & 15) for i in range(7, 7 + 3 * components, 3)]
    largest = max((h for h, _ in factors), default=0) * max((v for _, v in factors), default=0)
    if not largest:
        raise NotAPictureError("has no components")
    return marker, width, height, components, sum(h * v for h, v in factors) / largest


def _jpeg_header(
    file: Source, marker: int, width: int, height: int, components: int, samples: float, *, in_scan: int
) -> Header:
    # Where the picture comes in several scans, all its coefficients are kept, of 16 bits each.
    whole = marker in _JPEG_PROGRESSIVE or in_scan < components
    return Header(
        Format.JPEG,
        width,
        height,
        len(file),
        full=2 * samples if whole else 0.0,
        output=1 if components == 1 else 4,
        scales=_JPEG_SCALES,
    )


def _webp(file: Source) -> Header:
    position, alpha = 12, False
    canvas: tuple[int, int] | None = None
    for _ in range(_MAX_STEPS):
        name, length = struct.unpack("<4sI", file[position : position + 8])
        body = position + 8
        if name == b"VP8X":
            sides = file[body + 4 : body + 10]
            if len(sides) < 6:
                raise NotAPictureError("is cut short")
            canvas = int.from_bytes(sides[:3], "little") + 1, int.from_bytes(sides[3:], "little") + 1
        elif name == b"ALPH":
            alpha = True
        elif name == b"ANMF" and canvas is not None:
            # Whatever the first frame is, decoded onto a canvas of four bytes a pixel.
            return Header(Format.WEBP, *canvas, len(file), full=_WEBP_ALPHA + 4 + 4)
        elif name == b"VP8L":
            (bits,) = struct.unpack("<I", file[body + 1 : body + 5])
            size = canvas or ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
            return Header(Format.WEBP, size[0], size[1], len(file), _WEBP_LOSSLESS, output=4, scales=None)
        elif name == b"VP8 ":
            width, height = struct.unpack("<2H", file[body + 6 : body + 10])
            size = canvas or (width & 0x3FFF, height & 0x3FFF)
            full = _WEBP_ALPHA if alpha else 0
            return Header(Format.WEBP, size[0], size[1], len(file), full, output=4, scales=None)
        position = body + length + length % 2
    raise NotAPictureError("has no picture, or too much before it")


# All pixels of a lossless picture are kept; of a transparency plane itself and what it is coded in.
_WEBP_LOSSLESS = 4
_WEBP_ALPHA = 5


def _gif(file: Source) -> Header:
    width, height, flags = struct.unpack("<2HB", file[6:11])
    position = 13 + color_table_bytes(flags)
    for _ in range(_MAX_STEPS):
        kind = file[position : position + 1][0]
        if kind == 0x2C:
            left, top, own_width, own_height = struct.unpack("<4H", file[position + 1 : position + 9])
            whole = (left, top, own_width, own_height) == (0, 0, width, height)
            # A frame that does not fill the canvas is laid on one of four bytes a pixel.
            return Header(
                Format.GIF,
                max(width, left + own_width),
                max(height, top + own_height),
                len(file),
                full=2 if whole else 6,
            )
        if kind != 0x21:
            break
        position += 2
        for _ in range(_MAX_STEPS):
            size = file[position : position + 1][0]
            position += 1 + size
            if not size:
                break
    raise NotAPictureError("has no picture, or too much before it")


def color_table_bytes(flags: int) -> int:
    """Bytes of the table of colours of a GIF file that `flags` announce; 0 where there is none."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
