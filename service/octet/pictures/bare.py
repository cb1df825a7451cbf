"""Picture files without their metadata: the pixels of the first picture, its colours, and which way is up.

What a file says beside its pixels (profiles, texts, previews, further pictures) must not decide on whether it
can be decoded, nor cost anything. Only the orientation is read out of it, and a damaged one says nothing.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image

from octet.pictures.header import NotAPictureError, color_table_bytes

_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")
_MAX_METADATA_BYTES = 2**20
"""Of one piece that the orientation is looked for in; longer ones are not looked at."""

_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})

# A progressive JPEG file has about ten scans. Each one costs a pass over the whole picture, however few bytes
# it has: without a bound, a file of a few MiB keeps the decoder busy for hours.
MAX_JPEG_SCANS = 100
# The next marker that begins a segment or ends the picture: FF 00 is a stuffed byte, FF FF is fill, and FF 01
# and FF D0 to FF D7 stand alone.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_JPEG_SOS = 0xDA
_JPEG_EOI = 0xD9
# Tables and frames; C8 and what is reserved are not taken over.
_JPEG_KEPT = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD} - {0xC8})
# What says how colours are coded, and where that stands: APP0 of JFIF and APP14 of Adobe.
_JPEG_COLORS = {0xE0: (b"JFIF\x00", 14), 0xEE: (b"Adobe", 12)}


@dataclass(frozen=True, slots=True)
class Bare:
    """A picture file with nothing but a picture.

    Attributes:
        data: the file.
        orientation: EXIF's, 1 to 8.
        transparent: of a PNG file its tRNS chunk; else empty.
        at: where the picture lies on its canvas: the first frame of an animation.
        canvas: the canvas's width and height; None where the picture fills it.
    """

    data: bytes
    orientation: int = 1
    transparent: bytes = b""
    at: tuple[int, int] = (0, 0)
    canvas: tuple[int, int] | None = None


class TooManyScansError(ValueError):
    """A JPEG file has more scans than an encoder would write."""


def bare_png(file: bytes) -> Bare:
    """Keeps the critical chunks; palettes keep their transparency, too."""
    view = memoryview(file)
    kept: list[bytes | memoryview] = [view[:8]]
    transparent, color, exif, xmp = b"", 3, b"", b""
    for name, start, end in _png_chunks(file):
        body = view[start + 8 : end - 4]
        if name == b"IHDR":
            color = body[9]
        if name == b"tRNS":
            transparent = bytes(body[:256])
            if color == 3:
                kept.append(view[start:end])
        elif name in _PNG_KEPT:
            kept.append(view[start:end])
        elif name == b"eXIf":
            exif = bytes(body[:_MAX_METADATA_BYTES])
        elif name in (b"iTXt", b"tEXt", b"zTXt") and len(body) <= _MAX_METADATA_BYTES:
            keyword, text = _png_text(name, bytes(body))
            if keyword == b"XML:com.adobe.xmp":
                xmp = text
            elif keyword in (b"Raw profile type exif", b"Raw profile type APP1") and not exif:
                with suppress(ValueError):
                    exif = bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:])).removeprefix(_EXIF)
    return Bare(b"".join(kept), _orientation(exif, xmp), transparent)


_EXIF = b"Exif\x00\x00"


def _png_chunks(file: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, where it begins and where it ends, as far as IEND; the last may be cut short."""
    position = 8
    while position + 8 <= len(file):
        length, name = struct.unpack_from(">I4s", file, position)
        end = min(position + 12 + length, len(file))
        yield name, position, end
        if name == b"IEND":
            return
        position = end


def _png_text(name: bytes, body: bytes) -> tuple[bytes, bytes]:
    """The keyword and the text of a chunk; a text that is damaged or expands too far is empty."""
    keyword, _, rest = body.partition(b"\x00")
    compressed = name == b"zTXt"
    if name == b"zTXt":
        rest = rest[1:]
    elif name == b"iTXt":
        compressed = rest[:1] == b"\x01"
        rest = b"".join(rest[2:].split(b"\x00", 2)[2:])
    if compressed:
        try:
            rest = zlib.decompressobj().decompress(rest, _MAX_METADATA_BYTES)
        except zlib.error:
            rest = b""
    return keyword, rest


def bare_jpeg(file: bytes) -> Bare:
    """Keeps the first picture's frame, tables and scans, and what says how its colours are coded.

    Raises:
        TooManyScansError: it has more than MAX_JPEG_SCANS.
    """
    view = memoryview(file)
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    exif, xmp = b"", b""
    scans = 0
    position = 2
    # A segment's length counts itself. Skipping the segment keeps what looks like markers in it out.
    while (found := _JPEG_MARKER.search(file, position)) is not None:
        if scans:
            # What lies between is the entropy-coded data of a scan.
            kept.append(view[position : found.start()])
        marker, body = found[1][0], found.end()
        if marker == _JPEG_EOI:
            kept.append(b"\xff\xd9")
            break
        end = min(body + max(2, int.from_bytes(file[body : body + 2], "big")), len(file))
        if marker == _JPEG_SOS:
            scans += 1
            if scans > MAX_JPEG_SCANS:
                raise TooManyScansError
            kept.append(view[found.start() : end])
        elif marker in _JPEG_KEPT or _says_how_colors_are_coded(marker, file, body, end):
            kept.append(view[found.start() : end])
        elif marker == 0xE1 and not exif and file[body + 2 : body + 8] == _EXIF:
            exif = file[body + 8 : end]
        elif (
            marker == 0xE1 and not xmp and file[body + 2 : body + 30].startswith(b"http://ns.adobe.com/xap/")
        ):
            xmp = file[body + 2 : end]
        position = end
    else:
        kept.append(view[position:])
    return Bare(b"".join(kept), _orientation(exif, xmp))


def _says_how_colors_are_coded(marker: int, file: bytes, body: int, end: int) -> bool:
    magic, least = _JPEG_COLORS.get(marker, (b"", 0))
    return bool(magic) and end - body - 2 >= least and file.startswith(magic, body + 2)


def bare_webp(file: bytes) -> Bare:
    """Keeps the bitstream of the picture, or of an animation's first frame, and its transparency."""
    parts: dict[bytes, bytes] = {}
    exif, xmp, at, canvas = b"", b"", (0, 0), None
    flags = 0
    for name, body in _riff_chunks(file, 12, len(file)):
        if name == b"VP8X" and len(body) >= 10 and not canvas:
            flags = body[0]
            canvas = _uint24(body, 4) + 1, _uint24(body, 7) + 1
        elif name == b"ANMF" and not parts and flags & 2:
            at = _uint24(body, 0) * 2, _uint24(body, 3) * 2
            for inner, data in _riff_chunks(body, 16, len(body)):
                if inner in (b"ALPH", b"VP8 ", b"VP8L"):
                    parts.setdefault(inner, data)
        elif name in (b"ALPH", b"VP8 ", b"VP8L") and not flags & 2:
            parts.setdefault(name, body)
        elif name == b"EXIF":
            exif = body[:_MAX_METADATA_BYTES].removeprefix(_EXIF)
        elif name == b"XMP ":
            xmp = body[:_MAX_METADATA_BYTES]
    return Bare(_webp_file(parts), _orientation(exif, xmp), at=at, canvas=canvas if flags & 2 else None)


def _webp_file(parts: dict[bytes, bytes]) -> bytes:
    """A still WebP file of these chunks."""
    chunks: list[tuple[bytes, bytes]] = []
    if b"VP8L" in parts:
        chunks.append((b"VP8L", parts[b"VP8L"]))
    elif b"VP8 " in parts:
        picture = parts[b"VP8 "]
        if b"ALPH" in parts:
            width, height = struct.unpack("<2H", picture[6:10].ljust(4, b"\x01"))
            size = ((width & 0x3FFF) - 1 & 0xFFFFFF).to_bytes(3, "little")
            size += ((height & 0x3FFF) - 1 & 0xFFFFFF).to_bytes(3, "little")
            chunks += [(b"VP8X", b"\x10\x00\x00\x00" + size), (b"ALPH", parts[b"ALPH"])]
        chunks.append((b"VP8 ", picture))
    else:
        raise NotAPictureError("has no picture")
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\x00" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _riff_chunks(file: bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Names and bodies; the last body may be cut short."""
    position = start
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", file, position)
        yield name, file[position + 8 : min(position + 8 + length, end)]
        position += 8 + length + length % 2


def _uint24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def bare_gif(file: bytes) -> Bare:
    """Keeps the first frame, as a picture of its own size, its colours and its transparency."""
    width, height, flags = struct.unpack_from("<2HB", file, 6)
    tables = file[13 : 13 + color_table_bytes(flags)]
    position, control = 13 + len(tables), b""
    while file[position] == 0x21:
        end = _end_of_blocks(file, position + 2)
        if file[position + 1] == 0xF9:
            control = file[position:end]
        position = end
    if file[position] != 0x2C:
        raise NotAPictureError("has no picture")
    left, top, own_width, own_height, own_flags = struct.unpack_from("<4HB", file, position + 1)
    pixels = position + 10 + color_table_bytes(own_flags)
    end = _end_of_blocks(file, pixels + 1)
    screen = file[:6] + struct.pack("<2HB", own_width, own_height, flags) + b"\x00\x00"
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, own_width, own_height, own_flags)
    canvas = max(width, left + own_width), max(height, top + own_height)
    return Bare(
        screen + tables + control + frame + file[position + 10 : end] + b"\x3b",
        at=(left, top),
        canvas=None if canvas == (own_width, own_height) else canvas,
    )


def _end_of_blocks(file: bytes, position: int) -> int:
    while position < len(file) and file[position]:
        position += 1 + file[position]
    return min(position + 1, len(file))


def _orientation(exif: bytes, xmp: bytes) -> int:
    """What EXIF data say, without their header, or XMP data where they do not."""
    # Damaged EXIF data say nothing about the pixels, and Pillow raises nearly anything on them.
    with suppress(Exception):
        if exif:
            tags = Image.Exif()
            tags.load(_EXIF + exif)
            if (value := tags.get(_ORIENTATION)) is not None:
                return int(value) if value in range(1, 9) else 1
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
